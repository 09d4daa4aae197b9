"""The bound pixel by pixel: it sums to the bound of the same draws, and each pixel has its own cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from math_helpers import assert_mean
from torch import Tensor, nn

from nelbo.diffusion.bound import ChainBound
from nelbo.diffusion.decoders import GaussianDecoder
from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.schedules import LinearBeta, chain_of
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError
from nelbo.metrics import score_likelihood, score_pixels
from nelbo.models.base import LikelihoodModel
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.likelihoods import to_unit

CPU, SHAPE, LEVELS = torch.device("cpu"), (2, 3, 2), 5
IMAGES = torch.randint(0, LEVELS, (9, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
ALL = ["reconstruction", "diffusion", "prior"]
CASES: dict[str, tuple[Any, dict[str, object], list[str]]] = {
    "ddpm": ((DDPM, DDPMOptions), {"timesteps": 13, "reverse_variance": "learned", "clusters": 0}, ALL),
    "ddpm beta": ((DDPM, DDPMOptions), {"timesteps": 13, "reverse_variance": "beta", "clusters": 0}, ALL),
    "vdm": ((VDM, VDMOptions), {"gamma_min": -6.0, "clusters": 3}, ALL),
    "vae": ((VAE, VAEOptions), {"latent": 2}, ALL[:1]),
    "hvae": ((HVAE, HVAEOptions), {"depth": 2, "latent": 1}, ALL[:1]),
    "hvae bottom-up": ((HVAE, HVAEOptions), {"depth": 2, "latent": 1, "inference": "bottom-up"}, ALL[:1]),
}
"""Classes, settings, and the terms that are sums over pixels."""


def small(case: str) -> LikelihoodModel:
    """A small model with random weights, and clusters of the images if its settings have them."""
    (kind, options), settings, _ = CASES[case]
    torch.manual_seed(0)
    known = {"widths": (8,), **({"attention": ()} if "attention" in options.model_fields else {}), **settings}
    model = kind.from_options(options.model_validate(known).resolved(SHAPE), SHAPE, LEVELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    if getattr(model, "clusters", None) is not None:
        model.clusters.centres[:3] = model.clusters.look(to_unit(IMAGES[:3], LEVELS))
        model.clusters.shares[:3] = 1 / 3
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_pixels_and_the_other_terms_sum_to_the_score_of_the_same_draws(case: str) -> None:
    """Of images 7, 2 and 4, in batches of two, against the score of all nine, to round-off of float32."""
    model, rows = small(case), [7, 2, 4]
    whole = score_likelihood(model, IMAGES, seed=3)
    found = score_pixels(model, IMAGES, rows, seed=3, batch=2)
    assert list(found.pixels) == CASES[case][2]
    assert all(pixels.shape == (3, *SHAPE) for pixels in found.pixels.values())
    others = [term.mean(1) for name, term in found.terms.items() if name not in found.pixels]
    assert ("cluster" in found.terms) == (case == "vdm")
    sums = torch.stack([each.sum((1, 2, 3)) for each in found.pixels.values()] + others).sum(0)
    torch.testing.assert_close(sums, whole.estimates()[rows].mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.total, whole.estimates()[rows], rtol=1e-5, atol=1e-5)
    y = whole.estimates()[rows]
    torch.testing.assert_close(found.stderr, (y[:, 0] - y[:, 1]).abs() / 2, rtol=1e-3, atol=1e-4)


GAUSSIANS = (0.5, 2.0)
"""The variances of two independent pixels."""


def exact_chain(T: int = 12) -> ChainBound:
    """The bound with the exact denoiser of two independent normal pixels."""
    data = GaussianData(torch.zeros(2), torch.diag(torch.tensor(GAUSSIANS)))
    gammas = chain_of(LinearBeta().grid(T * 3))

    def x_0(x_t: Tensor, gamma: Tensor) -> Tensor:
        return data.denoise(x_t.flatten(1).double(), gamma).reshape(x_t.shape)

    return ChainBound(denoiser_of(x_0), GaussianDecoder(5), gammas, VARIANCES["beta_tilde"], 5, (1, 1, 2))


def images_of(*levels: int, n: int = 1) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8).reshape(1, 1, 1, 2).expand(n, 1, 1, 2)


@torch.no_grad()
def test_the_diffusion_term_of_a_pixel_is_that_of_its_own_law() -> None:
    """Of independent pixels, each alone: Σ_t ½ (SNR(s) − SNR(t)) E(x − x̂)², VDM (14), in closed form."""
    chain, n = exact_chain(), 2000
    found = chain.denoising(images_of(1, 4, n=n), Draws(0, 0, range(n), n, CPU), 8).pixels["diffusion"]
    snr = Coefficients(chain.gammas).snr
    for pixel, (level, var) in enumerate(zip((1, 4), GAUSSIANS, strict=True)):
        alone = GaussianData(torch.zeros(1), torch.tensor([[var]]))
        y_squared = alone.coordinates(torch.tensor([[level / 2 - 1]], dtype=torch.float64)).square()
        exact = sum(
            0.5 * float(snr[t - 1] - snr[t]) * float(alone.squared_error(chain.gammas[t : t + 1], y_squared))
            for t in range(2, chain.T + 1)
        )
        assert_mean(found[:, 0, 0, pixel], exact, sigmas=4.0, bias=1e-6)


@torch.no_grad()
def test_another_pixel_changes_nothing() -> None:
    """Of independent pixels: with the same draws, the bits of the first do not depend on the level of the second."""
    one, two = (exact_chain().denoising(images_of(1, other), Draws(0, 0, [5], 9, CPU), 8) for other in (4, 0))
    for name in ALL:
        assert torch.equal(one.pixels[name][..., 0], two.pixels[name][..., 0])
        assert not torch.equal(one.pixels[name][..., 1], two.pixels[name][..., 1]) or name == "prior"


class Constant(nn.Module):
    """An encoder that does not look at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), 4)


@torch.no_grad()
def test_the_probabilities_of_a_pixels_levels_sum_to_one() -> None:
    """Of a vae whose z does not depend on the image: over images of one level each, with the same noise."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 15 * 6), nn.Unflatten(1, (15, 3, 2)))
    model = VAE(Constant(), decoder, (1, 3, 2), LEVELS, latent=2)
    same = [torch.full((1, 1, 3, 2), level, dtype=torch.uint8) for level in range(LEVELS)]
    nats = torch.stack([model.bound(x, seed=2).pixels["reconstruction"] for x in same])
    torch.testing.assert_close((-nats).exp().sum(0), torch.ones(1, 1, 3, 2), rtol=1e-5, atol=0)


def test_a_form_that_is_no_sum_over_pixels_has_none() -> None:
    assert score_pixels(small("vae"), IMAGES, [0], form="iw", k=2).pixels == {}
    with pytest.raises(InputError, match="form"):
        score_pixels(small("vae"), IMAGES, [0], form="denoising")
