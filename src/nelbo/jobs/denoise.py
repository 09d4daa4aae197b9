"""An image on its way through noise: z_t, x̂_0(z_t), and the bits that the bound has spent by t.

The bound is a sum over the way from t = 1 to the image: first the prior term at t = 1, then the diffusion term of each
piece of t, then the reconstruction. So the bits that are spent by t are

    prior + ∫_t^1 (diffusion term at u) du

which grow from the prior term at t = 1 to the bound without its reconstruction at t = 0 (Kingma et al. 2021 (11)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser
from nelbo.diffusion.process import diffuse
from nelbo.errors import InputError
from nelbo.jobs.run import Run
from nelbo.metrics import score_profile
from nelbo.models._diffusion_clusters import shown_clusters
from nelbo.models.diffusion import Diffusion
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.rng import Stream, normal
from nelbo.theory.likelihoods import to_levels, to_unit
from nelbo.units import bits_per_dim

PIECES, REPLICATES = 32, 8
STRIP = 8
"""Images of the strip of the forward process."""


class Noised(NamedTuple):
    """An image at one t.

    Attributes:
        t: in [0, 1].
        gamma: γ = −ln SNR at t.
        z: z_t as levels, clamped to the range of pixels, uint8, shape (C, H, W).
        x_0: x̂_0(z_t), the same.
    """

    t: float
    gamma: float
    z: Tensor
    x_0: Tensor


class Spent(NamedTuple):
    """Bits of an image by t.

    Attributes:
        t: decreasing from 1 to 0, shape (K + 1,).
        bits: bits/dim that are spent by each t, shape (K + 1,).
        stderr: their Monte Carlo standard errors.
        reconstruction: bits/dim of the last step, to the levels.
        total: bits/dim of the bound, and its Monte Carlo standard error.
    """

    t: Tensor
    bits: Tensor
    stderr: Tensor
    reconstruction: float
    total: tuple[float, float]

    def at(self, t: float) -> tuple[float, float]:
        """The bits/dim spent by t, linear within a piece, and their standard error."""
        k = int((self.t > t).sum()) if t > 0 else len(self.t) - 1
        if k == 0 or t == 0:
            return float(self.bits[k]), float(self.stderr[k])
        share = float((self.t[k - 1] - t) / (self.t[k - 1] - self.t[k]))
        low, high = self.bits[k - 1], self.bits[k]
        return float(low + share * (high - low)), float(self.stderr[k])


def require_diffusion(run: Run) -> Diffusion:
    """The model of a run, if its images are denoised over t.

    Raises:
        InputError: it is of another family.
    """
    model = run.model()
    if not isinstance(model, Diffusion):
        raise InputError("run", f"a {model.family} does not denoise over t; choose a run of ddpm or vdm")
    return model


@dataclass(frozen=True)
class Way:
    """An image, noised with the same noise at every t, or, drawn from noise, at each step.

    Attributes:
        model: the model.
        image: integer levels, uint8, shape (C, H, W).
        eps: the noise, shape (1, C, H, W).
        denoiser: of the image, told its cluster if the model has clusters.
        frames: the states from noise to the image, if it was drawn; else none.
    """

    model: Diffusion
    image: Tensor
    eps: Tensor
    denoiser: Denoiser
    frames: tuple[Frame, ...] = ()

    @torch.no_grad()
    def at(self, t: float) -> Noised:
        """z_t = √ᾱ_t x + √(1 − ᾱ_t) ε and x̂_0(z_t), for t in [0, 1].

        Raises:
            InputError: t is out of range.
        """
        gamma = self.gamma(t)
        x = to_unit(self.image[None].to(self.model.device), self.model.levels)
        z = diffuse(x, gamma, self.eps)
        return self._shown(t, gamma, z, self.denoiser(z, gamma).x_0)

    def drawn_at(self, t: float) -> Noised:
        """The state of the reverse process nearest to t, for a drawn image, whose steps are even in t."""
        frame = min(self.frames, key=lambda each: abs(1 - (each.done - 1) / each.of - t))
        t = 1 - (frame.done - 1) / frame.of
        return self._shown(t, self.gamma(t), frame.x, frame.x_0)

    def strip(self) -> list[Noised]:
        """The forward process: z_t and x̂_0(z_t) at even t from 0 to 1."""
        return [self.at(k / (STRIP - 1)) for k in range(STRIP)]

    def gamma(self, t: float) -> Tensor:
        """γ at t, float64, shape (1,); of a chain at the nearest of its T steps.

        Raises:
            InputError: t is out of range.
        """
        if not 0 <= t <= 1:
            raise InputError("t", f"{t:g} is not between 0 and 1")
        timeline = self.model.timeline
        place = torch.tensor([t], dtype=torch.float64)
        if not timeline.continuous:
            place = (place * (len(timeline.chain()) - 1)).round().clamp(min=1)
        return timeline.gamma_at(place).to(self.model.device)

    def _shown(self, t: float, gamma: Tensor, z: Tensor, x_0: Tensor) -> Noised:
        levels = self.model.levels
        return Noised(t, float(gamma), to_levels(z, levels)[0].cpu(), to_levels(x_0, levels)[0].cpu())


@torch.no_grad()
def way_of(model: Diffusion, image: Tensor, seed: int) -> Way:
    """The way of a given image.

    Args:
        model: the model.
        image: integer levels, uint8, shape (C, H, W).
        seed: the seed of the noise.
    """
    eps = normal(seed, Stream.EDIT, 0, range(1), model.shape, device=model.device)
    return Way(model, image, eps, shown_clusters(model, image[None].to(model.device)).denoiser)


@torch.no_grad()
def way_from(model: Diffusion, seed: int, steps: int = 50) -> Way:
    """The way of an image that is drawn with this seed, by deterministic DDIM in steps that are even in t."""
    settings = SampleSettings(sampler="ddim", eta=0.0, steps=min(steps, len(model.timeline.chain()) - 1))
    began = normal(seed, Stream.SAMPLE, 0, range(1), model.shape, device=model.device)
    states, z = [], began
    for frame in model.frames(range(1), seed, settings):
        states.append(frame._replace(x=z))  # z_t before the step, and x̂_0 of it
        z = frame.x
    image = to_levels(z, model.levels)[0].cpu()
    way = way_of(model, image, seed)
    return Way(model, image, way.eps, way.denoiser, tuple(states))


@torch.no_grad()
def spent_bits(model: Diffusion, image: Tensor, seed: int) -> Spent:
    """The bits of one image by every t, averaged over independent estimates.

    Args:
        model: the model.
        image: integer levels, uint8, shape (C, H, W).
        seed: the seed of the noise.
    """
    copies = image[None].expand(REPLICATES, *image.shape)
    profile = score_profile(model, copies, pieces=PIECES, seed=seed, batch=REPLICATES)
    bound = model.bound(copies, seed=seed)
    terms = {name: each.double().cpu() * bits_per_dim(1.0, model.dims) for name, each in bound.terms.items()}
    pieces = profile.nats.double().flip(1) * bits_per_dim(1.0, model.dims)
    before = sum((each for name, each in terms.items() if name not in ("diffusion", "reconstruction")), torch.zeros(1))
    each = torch.cat([torch.zeros(len(pieces), 1), pieces.cumsum(1)], 1) + before[:, None]
    whole = each[:, -1] + terms["reconstruction"]
    top = 1.0 if model.timeline.continuous else float(profile.edges[-1])
    t = (profile.edges.double() / top).flip(0)
    t[-1] = 0.0  # of a chain, the last step is the reconstruction's
    error = REPLICATES**0.5
    return Spent(
        t,
        each.mean(0),
        each.std(0) / error,
        float(terms["reconstruction"].mean()),
        (float(whole.mean()), float(whole.std()) / error),
    )
