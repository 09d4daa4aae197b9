"""Twisted sequential Monte Carlo: weighted particles that are exact in the limit (Wu et al. 2023).

The chain p(z_T) ∏ p(z_s|z_t) of the sampler is multiplied by p̃(y|z), the approximation of a guided method, at its
last latent z_1. Particles move by the guided step p̃(z_s|z_t, y), and each has the weight

    w_s = p(z_s|z_t) p̃(y|z_s) / (p̃(z_s|z_t, y) p̃(y|z_t))                                Wu et al. 2023, algorithm 1

so that one particle drawn by its weight is, for many particles, from p(z_1) p̃(y|z_1)/p(y). Only the twist at γ_1 enters
this law; there, p̃(y|z_1) = N(A⁺y; P x̂_0(z_1), (1 − ᾱ_1)/ᾱ_1 P) up to terms of order 1 − ᾱ_1. The particle gives
x_0 = A⁺y + (1 − P) x̂_0(z_1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser, clipped
from nelbo.diffusion.process import CLEAN
from nelbo.diffusion.samplers import DDIM, State
from nelbo.editing.constraints import Seen
from nelbo.editing.methods import (
    Guided,
    GuidedMethod,
    Method,
    MomentMatching,
    Numbers,
    PseudoinverseGuidance,
    Replacement,
    at_gamma,
    at_least_one,
    normal_like,
)
from nelbo.rng import Stream
from nelbo.theory.normal import Gaussian


class TwistedParticles(Method):
    """Each image is drawn from its own particles.

    Particles are resampled where the effective number (Σ w)²/Σ w² is below half of them.

    Args:
        particles: K ≥ 1 of each image. K = 1 is the guided method itself, with ``ddim``.
        iterations: 0 for the steps and the twist of ΠGDM; else those of
            :class:`~nelbo.editing.methods.MomentMatching` with this number of iterations.

    Raises:
        InputError: K < 1, or the number of iterations is no whole number of at least 0.
    """

    caveat = "exact in the limit of many particles"

    def __init__(self, particles: int = 8, iterations: int = 2) -> None:
        self.particles, self.iterations = at_least_one("particles", particles), iterations
        self.guidance: GuidedMethod = MomentMatching(iterations) if iterations else PseudoinverseGuidance()

    def draw(self, denoiser: Denoiser, seen: Seen, gammas: Tensor, numbers: Numbers, clip: bool) -> Iterator[State]:
        count, rule, images = self.particles, DDIM(1.0), len(seen.known)
        many = seen.repeated(count)

        def guide(z: Tensor, gamma: Tensor) -> Guided:
            found = self.guidance.guide(denoiser, many, z, gamma)
            free, guided = ((clipped(part, z, gamma) if clip else part) for part in found[:2])
            return Guided(free, guided, found.log_twist)

        z = normal_like(seen.known, numbers, 0, count).flatten(0, 1)
        found = guide(z, at_gamma(float(gammas[0]), z))
        log_weight = found.log_twist.reshape(images, count)
        for number, (now, then) in enumerate(pairwise(gammas.tolist()), 1):
            gamma_t, gamma_s = at_gamma(now, z), at_gamma(then, z)
            u = numbers(number).uniform(Stream.EDIT_CHOICE, (2,))
            if then == CLEAN:
                chosen = systematic(log_weight, u[:, 1], 1)
                yield State(then, seen.fulfilled(found.free.x_0[chosen]), take(found, chosen).free)
                return
            chosen, log_weight = resampled(log_weight, u[:, 0])
            z, found = z[chosen], take(found, chosen)
            free, guided = (rule.step(z, part, gamma_t, gamma_s) for part in (found.free, found.guided))
            moved = guided.sample(normal_like(seen.known, numbers, number, count).flatten(0, 1))
            after = guide(moved, gamma_s)
            change = log_ratio(free, guided, moved) + after.log_twist - found.log_twist
            z, found, log_weight = moved, after, log_weight + change.reshape(images, count)
            best = systematic(log_weight, u[:, 1], 1)
            yield State(then, z[best], take(found, best).free)

    def evaluations(self, steps: int) -> int:
        return self.particles * self.guidance.evaluations(steps)


def take(found: Guided, rows: Tensor) -> Guided:
    """The results of some particles."""
    free, guided = (part._replace(x_0=part.x_0[rows], eps=part.eps[rows]) for part in (found.free, found.guided))
    return Guided(free, guided, found.log_twist[rows])


def log_ratio(p: Gaussian, q: Gaussian, z: Tensor) -> Tensor:
    """ln p(z) − ln q(z) of each example, in nats, float64, shape (B,), for two normals of the same variance."""
    var = p.var.double()
    change = (z.double() - q.mean.double()).square() - (z.double() - p.mean.double()).square()
    return (0.5 * change / var).flatten(1).sum(1)


def resampled(log_weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the particles to go on with, shape (B·K,), and their ln w, shape (B, K).

    Particles of an image with an effective number of at least K/2 stay as they are.

    Args:
        log_weight: ln w up to a constant of each image, shape (B, K).
        u: uniform, shape (B,).
    """
    images, count = log_weight.shape
    weight = log_weight.softmax(1)
    few = 1.0 / weight.square().sum(1) < 0.5 * count
    stay = torch.arange(images * count, device=weight.device).reshape(images, count)
    rows = torch.where(few[:, None], systematic(log_weight, u, count).reshape(images, count), stay)
    return rows.flatten(), torch.where(few[:, None], 0.0, log_weight)


def systematic(log_weight: Tensor, u: Tensor, count: int) -> Tensor:
    """Rows of ``count`` particles of each image, each with a mean number of copies ∝ w (Kitagawa 1996).

    Args:
        log_weight: ln w up to a constant, shape (B, K).
        u: uniform, shape (B,).
        count: particles to draw.

    Returns:
        Indices of B·K rows, shape (B·count,).
    """
    images, known = log_weight.shape
    ends = log_weight.softmax(1).cumsum(1)
    at = (torch.arange(count, device=u.device) + u[:, None].to(ends)) / count * ends[:, -1:]
    place = torch.searchsorted(ends, at).clamp(max=known - 1)
    return (place + known * torch.arange(images, device=u.device)[:, None]).flatten()


METHODS: dict[str, type[Method]] = {
    "replacement": Replacement,
    "guidance": PseudoinverseGuidance,
    "moments": MomentMatching,
    "particles": TwistedParticles,
}
"""Every method by name. Tests over METHODS include what is added."""
