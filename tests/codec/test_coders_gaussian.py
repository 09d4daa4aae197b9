"""The size of Gaussian data in the codec of a chain with the exact denoiser, against the bound in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coders_helpers import random_words
from scipy import stats
from torch import Tensor, nn

from nelbo.codec.coder import coder_for
from nelbo.models.diffusion import Diffusion

STD, SIDE, N, LEVELS = 0.25, 16, 100, 256
"""The standard deviation of every pixel on [−1, 1], the side of images, their number and their levels."""
FIRST, LAST = -6.0, 5.0


class ExactDenoiser(nn.Module):
    """E[x_0|z] = √ᾱ s²/(ᾱ s² + 1 − ᾱ) z for x_0 ~ N(0, s²)."""

    def __init__(self) -> None:
        super().__init__()
        self.var = nn.Parameter(torch.tensor(STD**2, dtype=torch.float64))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        alpha_bar = torch.sigmoid(-gamma)[:, None, None, None]
        return alpha_bar.sqrt() * self.var / (alpha_bar * self.var + 1 - alpha_bar) * z


def closed_form(steps: int) -> float:
    """The bound of a pixel, in bits: prior + Σ steps + reconstruction, with v = s² (1 − ᾱ)/(ᾱ s² + 1 − ᾱ)."""
    gammas = np.linspace(FIRST, LAST, steps + 1)
    alpha_bar = 1 / (1 + np.exp(gammas))
    v = STD**2 * (1 - alpha_bar) / (alpha_bar * STD**2 + 1 - alpha_bar)
    prior = 0.5 * (alpha_bar[-1] * (STD**2 - 1) - math.log(1 - alpha_bar[-1]))
    between = 0.5 * np.expm1(np.diff(gammas)) * (alpha_bar / (1 - alpha_bar) * v)[1:]
    half, sigma = 1 / (LEVELS - 1), math.sqrt(1 - alpha_bar[0])
    error = np.linspace(-8, 8, 4001) * math.sqrt(v[0])
    nll = -np.log(stats.norm.cdf((error + half) / sigma) - stats.norm.cdf((error - half) / sigma))
    weight = stats.norm.pdf(error, scale=math.sqrt(v[0])) * (error[1] - error[0])
    return float(prior + between.sum() + (nll * weight).sum()) / math.log(2)


def gaussian_images() -> np.ndarray:
    """Images of independent Gaussian pixels."""
    pixels = np.random.default_rng(7).normal(0, STD, (N, 1, SIDE, SIDE))
    return ((pixels + 1) / 2 * (LEVELS - 1)).round().clip(0, LEVELS - 1).astype(np.uint8)


@pytest.mark.parametrize(("steps", "less"), [(40, 0.0), (8, 0.01)])
def test_gaussian_data_have_the_size_of_the_bound(steps: int, less: float) -> None:
    """Within four standard errors of a mean over 25,600 pixels, each with a standard deviation of about 2 bits.

    In 8 steps σ² = β̃ is far too small: what lies beyond 5 σ costs 24 bits at most, so the file is up to 1% smaller.
    What the chain pushes is then no random bits: without masks the size is 3% larger.
    """
    model = Diffusion(
        ExactDenoiser(),
        (1, SIDE, SIDE),
        LEVELS,
        schedule=lambda t: FIRST + (LAST - FIRST) * t,
        predict="x0",
        decoder="gaussian",
        timesteps=steps,
        reverse_variance="beta_tilde",
    )
    np.testing.assert_allclose(model.timeline.chain()[1:].numpy(), np.linspace(FIRST, LAST, steps + 1), atol=1e-9)
    coder = coder_for(model)
    coder = coder_for(model, {**coder.settings, "in_flight": 25})
    images, words = gaussian_images(), random_words(coder.initial_words())
    coded = coder.encode(images, words)  # type: ignore[union-attr]
    found, left = coder.decode(coded, N)  # type: ignore[union-attr]
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(left, words)
    size = 32 * (len(coded) - len(words)) / images.size
    truth, error = closed_form(steps), 4 * 2 / math.sqrt(images.size)
    assert truth * (1 - less) - error <= size <= truth + error
