"""What the diffusion families share: how they are sampled, and the likelihood of their probability flow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from torch import Tensor, nn

from nelbo.bounds import SOLVER, Bound
from nelbo.diffusion import Denoiser, Process
from nelbo.errors import InputError, nearest
from nelbo.flow import (
    Divergence,
    Estimate,
    ExactDivergence,
    HutchinsonDivergence,
    ProbabilityFlow,
    noise_dequantised,
    signs,
    uniform_dequantised,
)
from nelbo.likelihoods import to_default_dtype, to_unit
from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Estimator
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import Recipe
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.rng import Draws, Stream, normal
from nelbo.samplers import DDIM, Ancestral, DPMSolver, Heun, Sampler, UniPC, clipped, karras_times, trajectory

FEW_STEPS = 20
"""Below so many unipc is nearest to samples of every step, and from there on ddim (docs/samplers.md)."""
QUICK_STEPS, FAST_STEPS, PREVIEW_STEPS = 200, 20, 25
"""Network evaluations of an image: by ddim, by those of higher order, and for a look while training."""
COARSER = 3.0
"""How many times larger the tolerance is of the second solution, which says how far the first may be off."""
EXACT_DIVERGENCE = 16
"""Up to so many dimensions the flow's divergence is exact: it takes a backward pass for each."""


class Chain(NamedTuple):
    """The steps of one way down: a process, a denoiser that takes its t, and the t to stop at, from T to 0."""

    process: Process
    denoiser: Denoiser
    grid: list[int]


class DiffusionModel(LikelihoodModel):
    """A model that draws by walking down a chain."""

    reverse_variance = "beta_tilde"

    network: nn.Module

    why_not_distilled = ""
    """Why it cannot be distilled, if so."""

    @abstractmethod
    def chain(self, steps: int | None) -> Chain:
        """The chain of this many steps, or the one whose bound is scored if None.

        Raises:
            InputError: no chain has so many steps.
        """

    @property
    def inspector(self) -> DiffusionInspector:
        return DiffusionInspector(self)

    @property
    def recipe(self) -> DiffusionRecipe:
        return DiffusionRecipe(self)

    def facts(self) -> Mapping[str, object]:
        """What ``info`` says of this model."""
        return {}

    def in_steps(self, T: int) -> Self:
        """The same model with its bound in T steps.

        Raises:
            InputError: its number of steps is fixed.
        """
        raise InputError("--T", f"only a vdm can be scored in other steps, and this is {self.family}; leave it out")

    @property
    def quick_steps(self) -> int:
        """Steps that are enough for a good picture, where nothing else is asked for."""
        return QUICK_STEPS

    def way(self, settings: SampleSettings) -> tuple[Sampler, Chain]:
        """The sampler and the chain that the settings ask for.

        Raises:
            InputError: an unknown sampler, η where there is none, or too many steps.
        """
        if settings.temperature is not None:
            why = f"is the spread of latents drawn from a prior, and {self.family} has none"
            raise InputError("--temperature", f"{why}; leave it out")
        name = chosen(settings)
        if name not in WAYS:
            known = ", ".join(WAYS)
            raise InputError("--sampler", f"{name!r} is not a sampler{nearest(name, WAYS)} (samplers: {known})")
        if name != "ddim" and settings.eta is not None:
            raise InputError("--eta", "only ddim has an η; leave it out, or use --sampler ddim")
        return WAYS[name](self, settings)

    @property
    def fast_steps(self) -> int:
        """The same for a sampler of higher order."""
        return min(FAST_STEPS, self.quick_steps)

    def spaced(self, steps: int) -> Chain:
        """The steps of Karras et al. 2022 among those of the chain whose bound is scored.

        Raises:
            InputError: it has not so many steps.
        """
        chain = self.chain(None)
        return chain._replace(grid=karras_times(chain.process.schedule.gamma[1:], steps))

    @abstractmethod
    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        """The diffusion term piece by piece of t, each estimated from one random t in it.

        Args:
            x: integer levels, shape (B, C, H, W).
            draws: the random numbers; ``draws.step`` is the replicate.
            pieces: K, how many; fewer where there are not so many t.

        Returns:
            The K + 1 edges of the pieces, and their nats, float64, shape (B, K): the sum is the diffusion term.
        """

    def gamma_at(self, t: Tensor) -> Tensor:
        """γ = −ln SNR at t as :meth:`over_t` counts it, float64, same shape."""
        return self.chain(None).process.schedule.gamma[t.long().cpu()]

    @property
    def has_t(self) -> bool:
        """Whether the bound has a diffusion term: not where the only step is the decoder's."""
        return len(self.chain(None).grid) > 2

    # The probability flow

    @abstractmethod
    def flow(self) -> ProbabilityFlow | None:
        """The flow of this denoiser, from the γ of the decoder to the last; None where there is none."""

    @abstractmethod
    def decode(self, x: Tensor, x_1: Tensor) -> Tensor:
        """−ln p(x|x_1) of each image, x_1 being the least noisy latent (z_0 of a VDM), in nats, shape (B,)."""

    @property
    def flow_forms(self) -> dict[str, Estimator]:
        """The likelihood by the probability-flow ODE, dequantised by the first noise, or uniformly."""
        if self.flow() is None:
            return {}
        why = "the likelihood of the probability flow, another model with the same denoiser"
        return {
            "ode": Estimator(self.flow_by_noise, counts=None, kind="estimate", why=why),
            "ode-uniform": Estimator(self.flow_by_uniform, counts=None, kind="estimate", why=why),
        }

    def flow_setting(self, x: Tensor, draws: Draws) -> tuple[ProbabilityFlow, Tensor, Divergence]:
        """The flow, x_0 in float64, and the divergence: exact in few dimensions, else by a probe for each image."""
        flow, x_0 = self.flow(), to_unit(x, self.levels).double()
        assert flow is not None
        if self.dims <= EXACT_DIVERGENCE:
            return flow, x_0, ExactDivergence()
        return flow, x_0, HutchinsonDivergence(signs(draws.uniform(Stream.SCORE_PROBE, self.shape)))

    def flow_by_noise(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow and the decoder, with the model's own first noise as dequantisation."""
        flow, x_0, divergence = self.flow_setting(x, draws)
        eps = draws.normal(Stream.SCORE_NOISE, self.shape).double()

        def solved(flow: ProbabilityFlow) -> Estimate:
            found = noise_dequantised(flow, x_0, eps, divergence, lambda x_1: self.decode(x, to_default_dtype(x_1)))
            return found._replace(evaluations=found.evaluations + 1)

        return solved_twice(flow, solved)

    def flow_by_uniform(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """−ln p(x) of the flow, uniformly dequantised."""
        flow, x_0, divergence = self.flow_setting(x, draws)
        u = draws.uniform(Stream.SCORE_NOISE, self.shape)
        return solved_twice(flow, lambda flow: uniform_dequantised(flow, x_0, self.levels, u, divergence))

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        return self.walk(*self.way(settings), indices, seed, settings.clip)

    def walk(self, sampler: Sampler, chain: Chain, indices: Sequence[int], seed: int, clip: bool) -> Iterator[Frame]:
        """The images with these indices, drawn by a sampler down a chain, with x̂_0 held to [−1, 1] if it is to be."""

        def noise(step: int) -> Tensor:
            return normal(seed, Stream.SAMPLE, step, indices, self.shape).to(self.device)

        held = chain.process if clip else None
        states = trajectory(sampler, chain.denoiser, noise(0), chain.grid, lambda n: noise(n + 1), held)
        for done, state in enumerate(states, 1):
            yield Frame(done, len(chain.grid) - 1, state.x, state.denoised.x_0)


class DiffusionRecipe(Recipe):
    """A diffusion model's one network."""

    model: DiffusionModel

    @property
    def compilable(self) -> list[nn.Module]:
        return [self.model.network]


class DiffusionInspector(Inspector):
    """How a diffusion model draws."""

    model: DiffusionModel

    @property
    def sample_evaluations(self) -> int:
        return self.model.quick_steps

    @property
    def preview_settings(self) -> SampleSettings:
        return SampleSettings(steps=min(PREVIEW_STEPS, self.model.quick_steps))

    def facts(self) -> Mapping[str, object]:
        return self.model.facts()

    def describe_sampling(self, settings: SampleSettings) -> str:
        sampler, chain = self.model.way(settings)
        name, steps = chosen(settings), len(chain.grid) - 1
        if isinstance(sampler, DDIM):
            name = f"ddim, η = {sampler.eta:g}"
        if isinstance(sampler, Heun):
            name = f"heun, {2 * steps - 1} evaluations"
        return f"{name}, {steps} steps" + (", x̂_0 clipped to [−1, 1]" if settings.clip else "")


def solved_twice(flow: ProbabilityFlow, estimate: Callable[[ProbabilityFlow], Estimate]) -> Bound:
    """An estimate by the flow, and beside it what a coarser tolerance changes: a local tolerance is no error."""
    fine, coarse = estimate(flow), estimate(replace(flow, rtol=COARSER * flow.rtol, atol=COARSER * flow.atol))
    change = Bound(fine.terms).total - Bound(coarse.terms).total
    return Bound(fine.terms, {SOLVER: change}, fine.evaluations + coarse.evaluations)


def chosen(settings: SampleSettings) -> str:
    """The sampler that is asked for, or the best with so many steps."""
    few = settings.steps is not None and settings.steps < FEW_STEPS and settings.eta is None
    return settings.sampler or ("unipc" if few else "ddim")


def ancestral(model: DiffusionModel, settings: SampleSettings) -> tuple[Sampler, Chain]:
    """Every step of the model whose bound is scored, unless told otherwise."""
    chain = model.chain(settings.steps)
    return Ancestral(chain.process, model.reverse_variance), chain


def ddim(model: DiffusionModel, settings: SampleSettings) -> tuple[Sampler, Chain]:
    """Steps even in t; as random as ancestral sampling unless told otherwise."""
    chain = model.chain(settings.steps or model.quick_steps)
    return DDIM(chain.process, 1.0 if settings.eta is None else settings.eta), chain


def dpm_solver(model: DiffusionModel, settings: SampleSettings) -> tuple[Sampler, Chain]:
    """Few steps, even in t."""
    chain = model.chain(settings.steps or model.fast_steps)
    return DPMSolver(chain.process), chain


def unipc(model: DiffusionModel, settings: SampleSettings) -> tuple[Sampler, Chain]:
    """Few steps, in Karras's spacing."""
    chain = model.spaced(settings.steps or model.fast_steps)
    return UniPC(chain.process), chain


def heun(model: DiffusionModel, settings: SampleSettings) -> tuple[Sampler, Chain]:
    """Half as many steps as evaluations, in Karras's spacing: all but the last take two."""
    chain = model.spaced((1 + (settings.steps or model.fast_steps)) // 2)
    return Heun(chain.process, clipping(chain) if settings.clip else chain.denoiser), chain


WAYS: dict[str, Callable[[DiffusionModel, SampleSettings], tuple[Sampler, Chain]]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm++": dpm_solver,
    "unipc": unipc,
    "heun": heun,
}


def clipping(chain: Chain) -> Denoiser:
    """The chain's denoiser with x̂_0 held to [−1, 1]."""
    return lambda x_t, t: clipped(chain.process, chain.denoiser(x_t, t), x_t, t)
