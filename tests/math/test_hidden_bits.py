"""Bits of hidden pixels: a law that is normalised, and the entropy where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import EPS

from nelbo.metrics.imputation import EXACT, WIDTHS, hidden_bits, log_law


@given(st.sampled_from(EXACT), st.sampled_from(WIDTHS), st.integers(2, 40), st.integers(0, 99))
def test_the_law_sums_to_one(exact: float, width: float, levels: int, seed: int) -> None:
    draws = torch.randint(0, levels, (3, 4, 5), generator=torch.Generator().manual_seed(seed))
    every = [log_law(torch.full((3, 5), j), draws, levels, exact, width).exp() for j in range(levels)]
    torch.testing.assert_close(sum(every), torch.ones(3, 5, dtype=torch.float64), rtol=64 * EPS, atol=0)


def test_the_law_is_its_definition() -> None:
    """One pixel of four levels, two draws, by hand."""
    found = float(log_law(torch.tensor([[1]]), torch.tensor([[[1], [3]]]), 4, 0.2, 0.4).exp())
    b = 0.4 * 3

    def kernel(j: int, k: int) -> float:
        weights = np.exp(-np.abs(np.arange(4) - k) / b)
        return float(weights[j] / weights.sum())

    assert found == pytest.approx(0.799 * (kernel(1, 1) + kernel(1, 3)) / 2 + 0.2 / 2 + 0.001 / 4, rel=1e-12)


def test_many_draws_from_the_true_law_cost_its_entropy() -> None:
    """A law on 16 levels with two peaks; 400 draws, 2,000 pixels: within 2% and four standard errors of the entropy."""
    rng = np.random.default_rng(0)
    p = np.exp(-((np.arange(16) - 3) ** 2) / 4) + 0.5 * (np.arange(16) == 15)
    p /= p.sum()
    truth = torch.from_numpy(rng.choice(16, (20, 100), p=p))
    draws = torch.from_numpy(rng.choice(16, (20, 400, 100), p=p))
    found = hidden_bits(truth, draws, 16)
    entropy = -float((p * np.log2(p)).sum())
    error = float(found.std()) / 20**0.5
    assert entropy - 4 * error < float(found.mean()) < 1.02 * entropy + 4 * error


def test_a_sure_and_right_draw_is_cheap_and_noise_costs_log_l() -> None:
    truth = torch.randint(0, 64, (10, 50), generator=torch.Generator().manual_seed(1))
    noise = torch.randint(0, 64, (10, 8, 50), generator=torch.Generator().manual_seed(2))
    assert float(hidden_bits(truth, truth[:, None], 64).max()) < 0.1
    # Eight draws that know nothing can only be made as broad as the widest kernel.
    assert 5.9 < float(hidden_bits(truth, noise, 64).mean()) < 6.5


def test_images_that_are_scored_do_not_choose_the_law() -> None:
    """Where one half would like another law, it gets that of the other half."""
    draws = torch.full((4, 1, 30), 8)
    truth = draws[:, 0].clone()
    truth[1::2] = torch.arange(30) % 17  # these would choose the broadest kernel, the others the exact one
    found = hidden_bits(truth, draws, 17)
    assert float(found[0]) > 3  # the exact image is charged for the breadth that the odd ones chose
    assert float(found[1]) > 5
