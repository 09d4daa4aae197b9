"""The forms of a chain's bound, estimated with a network: what every diffusion in discrete steps shares.

All have the same expectation for each image, but for the entropy form: see :mod:`nelbo.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bounds import (
    RARE,
    RARE_DRAWS,
    Bound,
    ReverseVariance,
    consistency_prior_term,
    consistency_term,
    crossing,
    entropy_difference,
    entropy_terms,
    harmonic,
    importance_weighted,
    neighbours,
    prior_term,
    shifted,
    stratified,
    trajectory_terms,
)
from nelbo.diffusion import Denoised, Denoiser, Gaussian, Process
from nelbo.likelihoods import to_default_dtype, to_unit
from nelbo.models.forms import Estimator
from nelbo.rng import Draws, Stream


class ChainBound(NamedTuple):
    """A chain x_T → … → x_0 whose bound is scored. The network is asked in float32, all else is computed in float64.

    Attributes:
        process: the forward process.
        variance: σ_t² of the reverse steps.
        denoiser: the network, for float32 x_t.
        decoder: levels of shape (B, C, H, W) and x_1 in float32 → −ln p(x|x_1) in nats, shape (B,).
        levels: L.
        shape: (C, H, W).
        pixel_decoder: the same as the decoder, pixel by pixel, shape (B, C, H, W), where its costs may be rare.
    """

    process: Process
    variance: ReverseVariance
    denoiser: Denoiser
    decoder: Callable[[Tensor, Tensor], Tensor]
    levels: int
    shape: tuple[int, int, int]
    pixel_decoder: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def T(self) -> int:  # noqa: N802
        """The number of steps."""
        return self.process.schedule.T

    @property
    def forms(self) -> dict[str, Estimator]:
        """All forms by name, the default first."""
        return {
            "denoising": Estimator(self.denoising),
            "consistency": Estimator(self.consistency),
            "trajectory": Estimator(self.trajectory, counts=None),
            "iw": Estimator(self.importance_weighted, counts="k", kind="iw_bound"),
            "entropy": Estimator(self.entropy, kind="estimate", why="not a bound by itself: it has no decoder"),
        }

    # The network

    def denoise(self, x_t: Tensor, t: Tensor) -> Denoised:
        """x̂_0 and ε̂ of x_t in float64, and the rest of what the network says of it."""
        found = self.denoiser(to_default_dtype(x_t), t)
        fraction = None if found.fraction is None else found.fraction.double()
        return Denoised(found.x_0.double(), found.eps.double(), fraction)

    def reverse(self, x_t: Tensor, t: Tensor) -> Gaussian:
        """p_θ(x_{t−1}|x_t), t ≥ 2."""
        return self.variance.step(self.process, self.denoise(x_t, t), x_t, t)

    def decode(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1) of each image, the reconstruction term, float64."""
        return self.decoder(x, to_default_dtype(x_1)).double()

    # The forms

    def start(self, x: Tensor, draws: Draws) -> tuple[Tensor, Iterator[Tensor], Tensor]:
        """x_0 in float64, the noise of this estimate, and the reconstruction."""
        x_0 = to_unit(x, self.levels).double()
        noise = (row.double() for row in draws.normal_iter(Stream.SCORE_NOISE, self.shape))
        first = torch.ones(len(x), dtype=torch.long, device=x.device)
        return x_0, noise, self.reconstruction(x, x_0, self.process.diffuse(x_0, first, next(noise)), draws)

    @property
    def rare_draws(self) -> int:
        """How many more x_1 a reconstruction is estimated from, where few of them hold it: :mod:`nelbo.bounds.rare`."""
        low, high = RARE
        rare = self.pixel_decoder is not None and low <= crossing(self.process.schedule, self.levels) <= high
        return RARE_DRAWS if rare else 0

    def reconstruction(self, x: Tensor, x_0: Tensor, x_1: Tensor, draws: Draws) -> Tensor:
        """E[−ln p_θ(x_0|x_1)] of each image, from one x_1; where few of them hold it, from weighed ones beside it.

        The estimate is b + mean of w (cost − b). What it starts from, b, is the cost at x_1 with no pixel paying more
        than ln L, so that the weights bear on little of a cost that is paid in every draw.
        """
        if self.pixel_decoder is None or not self.rare_draws:
            return self.decode(x, x_1)
        base = self.pixel_decoder(x, to_default_dtype(x_1)).clamp(max=math.log(self.levels)).double().flatten(1).sum(1)
        a, first = crossing(self.process.schedule, self.levels), torch.ones(len(x), dtype=torch.long, device=x.device)
        places = draws.uniform(Stream.SCORE_RARE_PLACE, (self.rare_draws, *self.shape))
        excess = torch.zeros_like(base)
        for u, noise in zip(places.unbind(1), draws.normal_iter(Stream.SCORE_RARE, self.shape), strict=False):
            eps, log_weight = shifted(noise, u, a)
            excess += log_weight.exp() * (self.decode(x, self.process.diffuse(x_0, first, eps)) - base)
        return base + excess / self.rare_draws

    def steps(self, draws: Draws, timesteps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``timesteps`` stratified t among 2 … T for each image, each with the number of terms that it stands for.

        They come more often where the bound is made, or each once if all are asked for.
        """
        count = self.T - 1
        if count:
            every = torch.full((count,), 1.0 / count, dtype=torch.float64)
            law = every if timesteps == count else harmonic(2, self.T)
            index, weight = stratified(draws.uniform(Stream.SCORE_TIME, (timesteps,)), law)
            yield from zip((index + 2).unbind(1), weight.unbind(1), strict=True)

    def evaluations(self, timesteps: int) -> int:
        """One for the reconstruction, or several, and one for each t of the sum."""
        return 1 + self.rare_draws + (timesteps if self.T > 1 else 0)

    def denoising(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """−ln p(x_0) ≤ prior + diffusion + reconstruction  [DDPM (5)]: stratified t for the sum."""
        x_0, noise, reconstruction = self.start(x, draws)
        diffusion = torch.zeros_like(reconstruction)
        for t, weight in self.steps(draws, timesteps):
            eps = next(noise)
            diffusion += weight * self.variance.diffusion_term(
                self.process, self.denoise(self.process.diffuse(x_0, t, eps), t), eps, t
            )
        terms = {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior_term(self.process, x_0)}
        return Bound(terms, evaluations=self.evaluations(timesteps))

    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        """The denoising form's diffusion term, piece by piece of t = 2 … T: one random t in each, for its whole piece.

        Pieces are narrow at small t, where the bits are. With a piece for each t, it is :meth:`denoising` with every t.

        Returns:
            Edges e_0 < … < e_K, piece k being t = e_{k−1} + 1 … e_k, and nats, float64, shape (B, K).
        """
        count = min(pieces, self.T - 1)
        place = torch.arange(count + 1, dtype=torch.float64)
        edges = 1 + torch.maximum(place, ((self.T - 1) * (place / max(1, count)) ** 2).ceil()).long()
        x_0 = to_unit(x, self.levels).double()
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        next(noise)  # the reconstruction's
        u, parts = draws.uniform(Stream.SCORE_TIME, (count,)), [x_0.new_zeros(len(x), 0)]
        for k, (before, last) in enumerate(pairwise(edges.tolist())):
            t = before + 1 + (u[:, k] * (last - before)).long()
            eps = next(noise).double()
            denoised = self.denoise(self.process.diffuse(x_0, t, eps), t)
            parts.append((last - before) * self.variance.diffusion_term(self.process, denoised, eps, t)[:, None])
        return edges.double(), torch.cat(parts, 1)

    def consistency(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The consistency form, x_t integrated out: stratified t for the sum."""
        x_0, noise, reconstruction = self.start(x, draws)
        diffusion = torch.zeros_like(reconstruction)
        for after, weight in self.steps(draws, timesteps):
            t = after - 1
            x_prev, _, x_next = neighbours(self.process, x_0, t, (next(noise), next(noise), next(noise)))
            diffusion += weight * consistency_term(self.process, self.reverse(x_next, after), x_prev, x_next, t)
        prior = consistency_prior_term(self.process, x_0)
        terms = {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}
        return Bound(terms, evaluations=self.evaluations(timesteps))

    def trajectory(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """The bound before any rearrangement, from one whole trajectory: T evaluations."""
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        return Bound(self.one_trajectory(x, noise), evaluations=self.T)

    def one_trajectory(self, x: Tensor, noise: Iterator[Tensor]) -> dict[str, Tensor]:
        """ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}) by terms, from the next T of the noise."""
        x_0 = to_unit(x, self.levels).double()
        return trajectory_terms(self.process, self.reverse, lambda x_1: self.decode(x, x_1), x_0, noise)

    def importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p_θ(x_{0:T}^j)/q(x_{1:T}^j|x_0) over k whole trajectories  [Burda et al. 2016 (8)].

        Never more than the bound in expectation, falling with k; t is never subsampled, or the logarithm of a mean
        would be that of something else. As a sum over trajectories inside a logarithm has no terms, it is one itself.
        """
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        costs = torch.stack([torch.stack(list(self.one_trajectory(x, noise).values())).sum(0) for _ in range(k)])
        return Bound({"importance_weighted": importance_weighted(costs)}, evaluations=k * self.T)

    def entropy(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The entropy form, and beside it ``difference``, Δ: what it lacks of the bound with the same noise."""
        bound, x_0 = self.denoising(x, draws, timesteps), to_unit(x, self.levels)
        terms = {"diffusion": bound.terms["diffusion"], **entropy_terms(self.process, x_0)}
        return Bound(
            {name: terms[name] for name in ("edge", "diffusion", "prior")},
            {"difference": entropy_difference(self.process, x_0, bound.terms["reconstruction"])},
            bound.evaluations,
        )
