"""The estimators of ``bench/run.py estimators`` have the same expectation."""

from __future__ import annotations

import pytest
import torch

import estimators
from nelbo.models.vdm import VDM, VDMOptions


@pytest.fixture(scope="module")
def model() -> VDM:
    """Six pixels, every weight random, and a loss profile that is not flat."""
    torch.manual_seed(0)
    made = VDM.from_options(VDMOptions(widths=(8,), attention=(), gamma_min=-6.0).resolved((1, 2, 3)), (1, 2, 3), 5)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        made.profile.mean_square.copy_(torch.linspace(4, 0.5, len(made.profile.mean_square), dtype=torch.float64))
    return made.eval()


def test_every_estimator_has_the_same_expectation(model: VDM) -> None:
    """Of one image with the same seeds or others: each within 3.5 combined errors of ``bound``'s own estimate."""
    x = torch.tensor([[0, 4, 2], [1, 3, 2]], dtype=torch.uint8).expand(1500, 1, 2, 3)
    own = model.bound(x, seed=9, timesteps=8)
    total = (own.total - own.terms["prior"]).double()
    mean, var = float(total.mean()), float(total.var()) / len(x)
    for _, noise, times, K in estimators.ROWS:
        y = estimators.measure(model, x, times, K, noise == "antithetic", 2).mean(1)
        assert abs(float(y.mean()) - mean) <= 3.5 * (var + float(y.var()) / len(x)) ** 0.5
