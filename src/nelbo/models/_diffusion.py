"""What the diffusion families share: how they are sampled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from nelbo.diffusion import Denoiser, Process
from nelbo.errors import InputError, nearest
from nelbo.models.base import Frame, LikelihoodModel, SampleSettings
from nelbo.rng import Stream, normal
from nelbo.samplers import DDIM, Ancestral, Sampler, trajectory

SAMPLERS = ("ancestral", "ddim")
QUICK_STEPS = 200


class Chain(NamedTuple):
    """The steps of one way down: a process, a denoiser that takes its t, and the t to stop at, from T to 0."""

    process: Process
    denoiser: Denoiser
    grid: list[int]


class DiffusionModel(LikelihoodModel):
    """A model that draws by walking down a chain."""

    reverse_variance = "beta_tilde"

    @abstractmethod
    def chain(self, steps: int | None) -> Chain:
        """The chain of this many steps, or the one whose bound is scored if None.

        Raises:
            InputError: no chain has so many steps.
        """

    @property
    def quick_steps(self) -> int:
        """Steps that are enough for a good picture, where nothing else is asked for."""
        return QUICK_STEPS

    def way(self, settings: SampleSettings) -> tuple[Sampler, Chain]:
        """The sampler and the chain that the settings ask for.

        Raises:
            InputError: an unknown sampler, η where there is none, or too many steps.
        """
        name = settings.sampler or "ddim"
        if name not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise InputError("--sampler", f"{name!r} is not a sampler{nearest(name, SAMPLERS)} (samplers: {known})")
        if name == "ancestral":
            if settings.eta is not None:
                raise InputError("--eta", "only ddim has an η; leave it out, or use --sampler ddim")
            chain = self.chain(settings.steps)
            return Ancestral(chain.process, self.reverse_variance), chain
        chain = self.chain(settings.steps or self.quick_steps)
        return DDIM(chain.process, 1.0 if settings.eta is None else settings.eta), chain

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        sampler, chain = self.way(settings)

        def noise(step: int) -> Tensor:
            return normal(seed, Stream.SAMPLE, step, indices, self.shape).to(self.device)

        clip = chain.process if settings.clip else None
        states = trajectory(sampler, chain.denoiser, noise(0), chain.grid, lambda n: noise(n + 1), clip)
        for done, state in enumerate(states, 1):
            yield Frame(done, len(chain.grid) - 1, state.x, state.denoised.x_0)

    def describe_sampling(self, settings: SampleSettings) -> str:
        sampler, chain = self.way(settings)
        name = f"ddim, η = {sampler.eta:g}" if isinstance(sampler, DDIM) else "ancestral"
        return f"{name}, {len(chain.grid) - 1} steps" + (", x̂_0 clipped to [−1, 1]" if settings.clip else "")
