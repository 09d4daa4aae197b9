"""The likelihood of a model's probability flow, as two forms beside its bound: :mod:`nelbo.diffusion.flow`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from nelbo.diffusion.bound import DiffusionBound
from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.flow import (
    Divergence,
    Estimate,
    ExactDivergence,
    HutchinsonDivergence,
    ProbabilityFlow,
    noise_dequantised,
    signs,
    uniform_dequantised,
)
from nelbo.rng import Draws, Stream
from nelbo.theory.bound import SOLVER, Bound
from nelbo.theory.likelihoods import to_default_dtype, to_unit

COARSER = 3.0
"""How many times larger the tolerance is of the second solution, which says how far the first may be off."""
EXACT_DIVERGENCE = 16
"""Up to so many dimensions the flow's divergence is exact: it takes a backward pass for each."""


class FlowLikelihood:
    """−ln p(x) by the probability-flow ODE: of the flow, another model with the same denoiser.

    Args:
        bound: the denoiser, its decoder, and the ends of γ.
    """

    def __init__(self, bound: DiffusionBound) -> None:
        self.bound = bound
        self.flow = ProbabilityFlow(
            lambda z, gamma: bound.denoiser(to_default_dtype(z), gamma), bound.first, bound.last
        )

    def denoise(self, z: Tensor, gamma: Tensor) -> Denoised:
        """What the network says of z, which it is given in the default dtype."""
        return self.bound.denoiser(to_default_dtype(z), gamma)

    def setting(self, x: Tensor, draws: Draws) -> tuple[Tensor, Divergence]:
        """x_0 in float64, and the divergence: exact in few dimensions, else by a probe for each image."""
        x_0 = to_unit(x, self.bound.levels).double()
        if x_0[0].numel() <= EXACT_DIVERGENCE:
            return x_0, ExactDivergence()
        return x_0, HutchinsonDivergence(signs(draws.uniform(Stream.SCORE_PROBE, self.bound.shape)))

    def by_noise(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow and the decoder, with the model's own first noise as dequantisation."""
        x_0, divergence = self.setting(x, draws)
        eps = draws.normal(Stream.SCORE_NOISE, self.bound.shape).double()

        def solved(flow: ProbabilityFlow) -> Estimate:
            found = noise_dequantised(flow, x_0, eps, divergence, lambda z: self.bound.decode(x, z))
            return found._replace(evaluations=found.evaluations + 1)

        return solved_twice(self.flow, solved)

    def by_uniform(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow, uniformly dequantised."""
        x_0, divergence = self.setting(x, draws)
        u = draws.uniform(Stream.SCORE_NOISE, self.bound.shape)
        return solved_twice(self.flow, lambda flow: uniform_dequantised(flow, x_0, self.bound.levels, u, divergence))


def solved_twice(flow: ProbabilityFlow, estimate: Callable[[ProbabilityFlow], Estimate]) -> Bound:
    """An estimate by the flow, and beside it what a coarser tolerance changes: a local tolerance is no error."""
    fine, coarse = estimate(flow), estimate(replace(flow, rtol=COARSER * flow.rtol, atol=COARSER * flow.atol))
    change = Bound(fine.terms).total - Bound(coarse.terms).total
    return Bound(fine.terms, {SOLVER: change}, fine.evaluations + coarse.evaluations)
