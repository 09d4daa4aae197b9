"""The likelihood of a model's probability flow, in two forms: :mod:`nelbo.diffusion.flow`."""

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
"""Factor of the second solution's tolerance; the difference of the two solutions estimates the solver's error."""
EXACT_DIVERGENCE = 16
"""Up to this number of dimensions the flow's divergence is exact, with one backward pass for each dimension."""


class FlowLikelihood:
    """−ln p(x) by the probability-flow ODE, which is another model with the same denoiser.

    Args:
        bound: the denoiser, its decoder, and the ends of γ.
    """

    def __init__(self, bound: DiffusionBound) -> None:
        self.bound = bound
        self.flow = ProbabilityFlow(
            lambda z, gamma: bound.denoiser(to_default_dtype(z), gamma), bound.first, bound.last
        )

    def denoise(self, z: Tensor, gamma: Tensor) -> Denoised:
        """The network's result at z, computed in the default dtype."""
        return self.bound.denoiser(to_default_dtype(z), gamma)

    def setting(self, x: Tensor, draws: Draws) -> tuple[Tensor, Divergence]:
        """x_0 in float64, and the divergence: exact for few dimensions, else with one probe for each image."""
        x_0 = to_unit(x, self.bound.levels).double()
        if x_0[0].numel() <= EXACT_DIVERGENCE:
            return x_0, ExactDivergence()
        return x_0, HutchinsonDivergence(signs(draws.uniform(Stream.SCORE_PROBE, self.bound.shape)))

    def by_noise(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow and the decoder, with the diffusion's first noise as dequantisation."""
        x_0, divergence = self.setting(x, draws)
        eps = draws.normal(Stream.SCORE_NOISE, self.bound.shape).double()

        def solved(flow: ProbabilityFlow) -> Estimate:
            found = noise_dequantised(flow, x_0, eps, divergence, lambda z: self.bound.decode(x, z))
            return found._replace(evaluations=found.evaluations + 1)

        return solved_twice(self.flow, solved)

    def by_uniform(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow, with uniform dequantisation."""
        x_0, divergence = self.setting(x, draws)
        u = draws.uniform(Stream.SCORE_NOISE, self.bound.shape)
        return solved_twice(self.flow, lambda flow: uniform_dequantised(flow, x_0, self.bound.levels, u, divergence))


def solved_twice(flow: ProbabilityFlow, estimate: Callable[[ProbabilityFlow], Estimate]) -> Bound:
    """An estimate by the flow, with an extra: its change at a coarser tolerance, as a measure of the solver's error."""
    fine, coarse = estimate(flow), estimate(replace(flow, rtol=COARSER * flow.rtol, atol=COARSER * flow.atol))
    change = Bound(fine.terms).total - Bound(coarse.terms).total
    return Bound(fine.terms, {SOLVER: change}, fine.evaluations + coarse.evaluations)
