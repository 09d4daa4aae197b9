"""A model is put back into its mode after a measurement, also if that is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nelbo.metrics import score_likelihood
from nelbo.metrics.pixels import score_pixels
from nelbo.metrics.profile import score_profile
from nelbo.metrics.step_costs import score_steps
from nelbo.models.vdm import VDM, VDMOptions

SHAPE, LEVELS = (1, 4, 4), 5
X = torch.zeros(3, *SHAPE, dtype=torch.uint8)
MEASURES: dict[str, Callable[..., Any]] = {
    "likelihood": score_likelihood,
    "pixels": lambda model, x, **how: score_pixels(model, x, [0], **how),
    "profile": score_profile,
    "steps": lambda model, x, **how: score_steps(model, x, size=4, **how),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_an_interrupt_leaves_the_mode(name: str, training: bool) -> None:
    model = VDM.from_options(VDMOptions(widths=(8,), attention=(), clusters=0).resolved(SHAPE), SHAPE, LEVELS)
    model.train(training)
    modes = []
    network = model.network.forward

    def noting(*inputs: Tensor, **more: Any) -> Any:
        modes.append(model.training)
        return network(*inputs, **more)

    model.network.forward = noting

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MEASURES[name](model, X, progress=interrupt)
    assert modes
    assert not any(modes)
    assert model.training is training
