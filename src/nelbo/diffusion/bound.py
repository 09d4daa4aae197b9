"""The bound of a diffusion model in every form, estimated with a denoiser: terms in nats.

    −ln p(x) ≤ E_{q(z_0|x)}[−ln p(x|z_0)]                                                        reconstruction
             + Σ_t E KL(q(z_s|z_t,x) ‖ p_θ(z_s|z_t)),  or  ½ ∫ γ′(t) E‖ε − ε̂(z_t)‖² dt          diffusion
             + KL(q(z_1|x) ‖ N(0, I))                                                            prior

This is the denoising form, for a chain of T steps (DDPM (5), VDM (14)) or in continuous time (VDM (17)). A chain also
has the forms of :mod:`~nelbo.diffusion.consistency`, :mod:`~nelbo.diffusion.trajectory`,
:mod:`~nelbo.theory.importance` and :mod:`~nelbo.diffusion.entropy`. All forms but the entropy form have the same
expectation for each image. The network computes in the default dtype, everything else in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.consistency import Three, consistency_prior_term, consistency_term, neighbours
from nelbo.diffusion.decoders import Decoder
from nelbo.diffusion.denoiser import Denoised, Denoiser
from nelbo.diffusion.entropy import entropy_difference, entropy_terms
from nelbo.diffusion.process import diffuse, on_device, per_image, prior_pixel_terms
from nelbo.diffusion.rare import RARE, RARE_DRAWS, crossing, shifted
from nelbo.diffusion.schedules import Curve
from nelbo.diffusion.timesteps import LossProfile, harmonic, stratified
from nelbo.diffusion.trajectory import trajectory_terms
from nelbo.diffusion.variances import ReverseVariance
from nelbo.rng import Draws, Stream
from nelbo.theory.bound import Bound
from nelbo.theory.importance import importance_weighted
from nelbo.theory.likelihoods import to_default_dtype, to_unit
from nelbo.theory.normal import Gaussian


class Place(NamedTuple):
    """One evaluation of the diffusion term.

    Attributes:
        gamma: γ of z, shape (B,).
        weight: the number of terms, or the length of t, that the place represents, shape (B,).
        cost: (the denoiser's result at z, ε) → nats of each pixel without this weight, float64, shape (B, C, H, W).
    """

    gamma: Tensor
    weight: Tensor
    cost: Callable[[Denoised, Tensor], Tensor]

    def pixels(self, denoised: Denoised, eps: Tensor) -> Tensor:
        """A part of the diffusion term of each pixel, in nats, float64, shape (B, C, H, W)."""
        return per_image(self.weight, eps) * self.cost(denoised, eps)


class DiffusionBound(ABC):
    """The denoising form, and what all forms share.

    Args:
        denoiser: takes z in the default dtype.
        decoder: p(x|z) at the first γ.
        first, last: γ of the least and of the most noisy latent.
        levels: L.
        shape: (C, H, W).
    """

    def __init__(
        self, denoiser: Denoiser, decoder: Decoder, first: float, last: float, levels: int, shape: tuple[int, int, int]
    ) -> None:
        self.denoiser, self.decoder, self.levels, self.shape = denoiser, decoder, levels, shape
        self.first, self.last = first, last

    # The network

    def denoise(self, z: Tensor, gamma: Tensor) -> Denoised:
        """x̂_0 and ε̂ of z in float64, the fraction of a learned variance, and the law over levels."""
        found = self.denoiser(to_default_dtype(z), gamma)
        fraction = None if found.fraction is None else found.fraction.double()
        return Denoised(found.x_0.double(), found.eps.double(), fraction, law=found.law)

    def pixel_nll(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z) of each pixel at the first γ, float64, shape (B, C, H, W)."""
        gamma, z = self.at(self.first, x), to_default_dtype(z)
        return self.decoder.nll(x, self.denoiser(z, gamma), z, gamma).double()

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z) of each image at the first γ, the reconstruction term, float64, shape (B,)."""
        return self.pixel_nll(x, z).flatten(1).sum(1)

    def at(self, gamma: float, x: Tensor) -> Tensor:
        """``gamma`` for each image, float64, shape (B,)."""
        return torch.full((len(x),), gamma, dtype=torch.float64, device=x.device)

    # The denoising form

    def start(self, x: Tensor, draws: Draws) -> tuple[Tensor, Iterator[Tensor], Tensor]:
        """x_0 in float64, the noise of this estimate, and the reconstruction term of each pixel."""
        x_0 = to_unit(x, self.levels).double()
        noise = (row.double() for row in draws.normal_iter(Stream.SCORE_NOISE, self.shape))
        return x_0, noise, self.reconstruction(x, x_0, diffuse(x_0, self.at(self.first, x), next(noise)), draws)

    @property
    def rare_draws(self) -> int:
        """The number of extra latents for the reconstruction term, or 0: :mod:`~nelbo.diffusion.rare`."""
        low, high = RARE
        rare = self.decoder.rare_crossings and low <= crossing(self.first, self.levels) <= high
        return RARE_DRAWS if rare else 0

    def reconstruction(self, x: Tensor, x_0: Tensor, z: Tensor, draws: Draws) -> Tensor:
        """E[−ln p(x|z)] of each pixel, from one z, and from weighted extra latents if :attr:`rare_draws` > 0.

        The estimate is b + mean of w (cost − b), where w is of the whole image. The baseline b is the cost at z, capped
        at ln L. It keeps the weights from multiplying the part of the cost that every sample has.
        """
        if not self.rare_draws:
            return self.pixel_nll(x, z)
        base = self.pixel_nll(x, z).clamp(max=math.log(self.levels))
        a, gamma = crossing(self.first, self.levels), self.at(self.first, x)
        places = draws.uniform(Stream.SCORE_RARE_PLACE, (self.rare_draws, *self.shape))
        excess = torch.zeros_like(base)
        for u, noise in zip(places.unbind(1), draws.normal_iter(Stream.SCORE_RARE, self.shape), strict=False):
            eps, log_weight = shifted(noise, u, a)
            excess += per_image(log_weight.exp(), base) * (self.pixel_nll(x, diffuse(x_0, gamma, eps)) - base)
        return base + excess / self.rare_draws

    @abstractmethod
    def places(self, draws: Draws, timesteps: int) -> Iterator[Place]:
        """Stratified places for each image, as many as ``timesteps``; the mean of their sum is the diffusion term."""

    @abstractmethod
    def edges(self, count: int) -> Tensor:
        """The edges of ``count`` pieces of t, or of as many as there are, float64, one more than the pieces."""

    @abstractmethod
    def place_in(self, edges: Tensor, piece: Tensor, u: Tensor) -> Place:
        """A random place in a piece of t for each image, with the term of the whole piece.

        Args:
            edges: from :meth:`edges`.
            piece: the number of the piece, from 0, int64, shape (B,).
            u: uniform in [0, 1), float64, shape (B,).
        """

    def pieces(self, draws: Draws, count: int) -> tuple[Tensor, Iterator[Place]]:
        """The edges of ``count`` pieces of t, and a random place in each piece, with the term of the whole piece."""
        edges = self.edges(count)
        u = draws.uniform(Stream.SCORE_TIME, (len(edges) - 1,))
        numbers = torch.arange(len(edges) - 1, device=u.device).expand_as(u)
        return edges, (self.place_in(edges, numbers[:, k], u[:, k]) for k in range(u.shape[1]))

    def evaluations(self, timesteps: int) -> int:
        """Network evaluations per image: the reconstruction's, and one for each place."""
        return 1 + self.rare_draws + timesteps

    def denoising(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """−ln p(x) ≤ prior + diffusion + reconstruction."""
        x_0, noise, reconstruction = self.start(x, draws)
        diffusion = torch.zeros_like(reconstruction)
        for place in self.places(draws, timesteps):
            eps = next(noise)
            diffusion += place.pixels(self.denoise(diffuse(x_0, place.gamma, eps), place.gamma), eps)
        prior = prior_pixel_terms(x_0, torch.tensor(self.last, dtype=torch.float64))
        pixels = {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}
        return Bound.of_pixels(pixels, {}, self.evaluations(timesteps))

    def diffusion_profile(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        """The denoising form's diffusion term for each piece of t, from one random t per piece.

        Args:
            x: integer levels, shape (B, C, H, W).
            draws: the images' random numbers.
            pieces: K, the number of pieces.

        Returns:
            The K + 1 edges of the pieces, float64, and their terms in nats, float64, shape (B, K).
        """
        x_0 = to_unit(x, self.levels).double()
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        next(noise)  # the reconstruction's
        edges, places = self.pieces(draws, pieces)
        parts = [x_0.new_zeros(len(x), 0)]
        for place in places:
            eps = next(noise).double()
            pixels = place.pixels(self.denoise(diffuse(x_0, place.gamma, eps), place.gamma), eps)
            parts.append(pixels.flatten(1).sum(1, keepdim=True))
        return edges, torch.cat(parts, 1)


class ContinuousBound(DiffusionBound):
    """The bound in continuous time: diffusion = ½ ∫ γ′(t) E‖ε − ε̂(z_t)‖² dt  [VDM (17)].

    Args:
        schedule: γ(t) and γ′(t), without gradient.
        profile: the root mean square of the loss over pieces of [0, 1], which places the samples of t.
        others: as in :class:`DiffusionBound`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Decoder,
        schedule: Callable[[Tensor], Curve],
        profile: LossProfile,
        levels: int,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        first, last = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))[0].tolist()
        super().__init__(denoiser, decoder, first, last, levels, shape)
        self.schedule, self.profile = schedule, profile

    def place(self, t: Tensor, share: Tensor | float) -> Place:
        """The place at t, with a weight for its share of [0, 1]."""
        gamma, slope = self.schedule(t)
        return Place(gamma, share * 0.5 * slope, lambda denoised, eps: (eps - denoised.eps).square())

    def places(self, draws: Draws, timesteps: int) -> Iterator[Place]:
        t, share = self.times(draws.uniform(Stream.SCORE_TIME, (timesteps, 2)))
        return (self.place(t[:, k], share[:, k]) for k in range(timesteps))

    def times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Stratified t from the profile, and the weight of each, from uniforms of shape (B, K, 2).

        E[Σ_k share_k f(t_k)] is the integral of f over [0, 1].
        """
        edges = self.profile.edges.to(u) / self.profile.T
        piece, share = stratified(u[:, :, 0], self.profile.probabilities())
        width = (edges[1:] - edges[:-1])[piece]
        return edges[piece] + width * u[:, :, 1], share * width

    def edges(self, count: int) -> Tensor:
        return torch.linspace(0, 1, count + 1, dtype=torch.float64)

    def place_in(self, edges: Tensor, piece: Tensor, u: Tensor) -> Place:
        count = len(edges) - 1
        return self.place((piece + u) / count, 1 / count)


class ChainBound(DiffusionBound):
    """The bound of a chain x_T → … → x_0.

    Args:
        gammas: −∞, γ_1, …, γ_T, increasing, float64.
        variance: σ² of the reverse steps.
        uniform: whether to draw the t of the sum uniformly; by default small t are drawn more often.
        others: as in :class:`DiffusionBound`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Decoder,
        gammas: Tensor,
        variance: ReverseVariance,
        levels: int,
        shape: tuple[int, int, int],
        uniform: bool = False,
    ) -> None:
        super().__init__(denoiser, decoder, float(gammas[1]), float(gammas[-1]), levels, shape)
        self.gammas, self.variance, self.uniform = gammas, variance, uniform

    @property
    def T(self) -> int:  # noqa: N802
        """The number of steps, including the decoder's."""
        return len(self.gammas) - 1

    def gamma(self, t: Tensor) -> Tensor:
        """γ_t of each t, on its device."""
        return on_device(self.gammas, t.device)[t]

    def reverse(self, z_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        """p_θ(z_s|z_t) for finite γ_s."""
        return self.variance.step(self.denoise(z_t, gamma_t), z_t, gamma_s, gamma_t)

    def steps(self, draws: Draws, timesteps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``timesteps`` stratified t among 2 … T for each image, each with the number of terms that it represents.

        Small t, where most of the bound lies, are drawn more often. With ``timesteps`` = T − 1, each t comes once.
        """
        count = self.T - 1
        if count:
            every = torch.full((count,), 1.0 / count, dtype=torch.float64)
            even = self.uniform or timesteps == count
            u = draws.uniform(Stream.SCORE_TIME, (timesteps, 2) if self.uniform else (timesteps,))
            u = u[:, :, 0] if self.uniform else u
            index, weight = stratified(u, every if even else harmonic(2, self.T))
            yield from zip((index + 2).unbind(1), weight.unbind(1), strict=True)

    def place(self, t: Tensor, weight: Tensor) -> Place:
        """The place of the step from t ≥ 2 to t − 1, with the weight of ``weight`` steps."""
        before, here = self.gamma(t - 1), self.gamma(t)
        return Place(here, weight, lambda d, eps: self.variance.pixel_terms(d, eps, before, here))

    def places(self, draws: Draws, timesteps: int) -> Iterator[Place]:
        return (self.place(t, weight) for t, weight in self.steps(draws, timesteps))

    def edges(self, count: int) -> Tensor:
        """Piece k holds t = e_{k−1} + 1 … e_k. Pieces are narrow at small t, where most of the bound lies."""
        count = min(count, self.T - 1)
        place = torch.arange(count + 1, dtype=torch.float64)
        return 1 + torch.maximum(place, ((self.T - 1) * (place / max(1, count)) ** 2).ceil())

    def place_in(self, edges: Tensor, piece: Tensor, u: Tensor) -> Place:
        ends = on_device(edges, u.device)
        before, width = ends[piece].long(), (ends[piece + 1] - ends[piece]).long()
        return self.place(before + 1 + (u * width).long(), width.to(u))

    def evaluations(self, timesteps: int) -> int:
        return super().evaluations(timesteps if self.T > 1 else 0)

    # The other forms

    def consistency(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The consistency form with x_t integrated out, and stratified t for the sum."""
        x_0, noise, pixels = self.start(x, draws)
        reconstruction = pixels.flatten(1).sum(1)
        diffusion = torch.zeros_like(reconstruction)
        for after, weight in self.steps(draws, timesteps):
            gamma = Three(*(self.gamma(t) for t in (after - 2, after - 1, after)))
            x_prev, _, x_next = neighbours(x_0, gamma, (next(noise), next(noise), next(noise)))
            diffusion += weight * consistency_term(self.reverse(x_next, gamma.here, gamma.next), x_prev, x_next, gamma)
        prior = consistency_prior_term(self.gammas, x_0)
        terms = {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}
        return Bound(terms, evaluations=self.evaluations(timesteps))

    def trajectory(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """The bound before any rearrangement, from one whole trajectory: T evaluations."""
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        return Bound(self.one_trajectory(x, noise), evaluations=self.T)

    def one_trajectory(self, x: Tensor, noise: Iterator[Tensor]) -> dict[str, Tensor]:
        """The terms of ln q(x_{1:T}|x_0) − ln p_θ(x_{0:T}), from the next T tensors of the noise."""
        x_0 = to_unit(x, self.levels).double()
        return trajectory_terms(self.gammas, self.reverse, partial(self.decode, x), x_0, noise)

    def importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p_θ(x_{0:T}^j)/q(x_{1:T}^j|x_0) over k whole trajectories  [Burda et al. 2016 (8)].

        Its expectation is at most the bound, and decreases with k. It uses every t, because the logarithm of a mean
        over sampled t would be biased. A sum inside the logarithm cannot be split into terms, so there is one term.
        """
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        costs = torch.stack([torch.stack(list(self.one_trajectory(x, noise).values())).sum(0) for _ in range(k)])
        return Bound({"importance_weighted": importance_weighted(costs)}, evaluations=k * self.T)

    def entropy(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """The entropy form, with the extra ``difference``, Δ: the bound minus this form, for the same noise."""
        bound, x_0 = self.denoising(x, draws, timesteps), to_unit(x, self.levels)
        terms = {"diffusion": bound.terms["diffusion"], **entropy_terms(self.gammas, x_0)}
        return Bound(
            {name: terms[name] for name in ("edge", "diffusion", "prior")},
            {"difference": entropy_difference(self.gammas, x_0, bound.terms["reconstruction"])},
            bound.evaluations,
        )
