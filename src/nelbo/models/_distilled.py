"""A diffusion model's walk in a few steps: consistency distillation in K segments (Song et al. 2023; Heek et al. 2024).

The teacher walks N steps of DDIM with η = 0. With ρ = √(ᾱ/(1−ᾱ)) a step from t to s is

    x_s/√(1−ᾱ_s) = x_t/√(1−ᾱ_t) + (ρ_s − ρ_t) x̂_0

so several steps from t to r are one step with a weighted mean of their x̂_0, the weights being the shares of ρ_r − ρ_t.
That mean is what the student learns to say at t, r being where the segment of t ends: of the first step it takes the
teacher's x̂_0, of the rest its own, from where the teacher's step led.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from nelbo.diffusion import Denoiser, Process, along
from nelbo.errors import InputError
from nelbo.likelihoods import to_unit
from nelbo.models._diffusion import DiffusionModel, clipping
from nelbo.models.base import GenerativeModel
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import ParamGroup, Recipe
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.options import Options
from nelbo.rng import Draws, Stream
from nelbo.samplers import DDIM, cosine_times

LARGEST_WEIGHT = 1e4
"""Of the loss at one t: next to the image, where x̂_0 is known from x_t alone, SNR has no end."""


class DistillationOptions(Options):
    """How a run was distilled."""

    teacher: str = ""
    "The run that it was distilled from."
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    "K, the steps that the student takes from noise to image."
    teacher_steps: Annotated[int, Field(ge=1, le=100_000)] = 64
    "N, the steps that the teacher takes, a multiple of K."


def consistency_target(
    process: Process, teacher: Denoiser, student: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, r: Tensor
) -> Tensor:
    """The x̂_0 that leads in one step from x_t to where teacher and student together lead  [Heek et al. 2024 (8)].

    w x̂_0(x_t) + (1 − w) f(x_s),  w = (ρ_s − ρ_t)/(ρ_r − ρ_t),  x_s being the teacher's step from x_t.

    Args:
        process: the forward process.
        teacher, student: (x_t, t) → x̂_0 and ε̂; f is the student's x̂_0.
        x_t: shape (B, …).
        t, s, r: integers (B,), 0 ≤ r ≤ s < t ≤ T: where x_t is, where the teacher's step ends, and the segment.

    Returns:
        Shape (B, …). Where s = r it is the teacher's x̂_0, and where r = 0, before that, the student's.
    """
    told = teacher(x_t, t)
    x_s = DDIM(process).step(x_t, told, t, s).mean
    ahead = student(x_s, s.clamp(min=1)).x_0
    rho = (-0.5 * process.schedule.gamma).exp()  # infinite at 0
    share = (rho[s.cpu()] - rho[t.cpu()]) / (rho[r.cpu()] - rho[t.cpu()])
    share = torch.where(s.cpu() == r.cpu(), 1.0, share).to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
    return share * told.x_0 + (1 - share) * ahead


class Distilled(GenerativeModel):
    """A student that walks in K steps, and the teacher that it learns from, which stays as it is.

    Args:
        student: a diffusion model; the teacher begins as its copy.
        options: how it is distilled.

    Raises:
        InputError: a model that cannot be distilled, or steps that it cannot take.
    """

    def __init__(self, student: DiffusionModel, options: DistillationOptions) -> None:
        super().__init__(student.shape, student.levels)
        if student.why_not_distilled:
            raise InputError("RUN", f"cannot be distilled: {student.why_not_distilled}")
        self.family = f"distilled {student.family}"
        self.options = options
        self.student, self.teacher = student, copy.deepcopy(student).requires_grad_(False)
        K, N = options.steps, options.teacher_steps
        if N % K:
            raise InputError("--teacher-steps", f"{N} is not a multiple of the {K} steps of the student")
        cosine_times(student.chain(None).process.schedule.gamma[1:], N)  # refuses what cannot be

    @property
    def grid(self) -> list[int]:
        """The teacher's t, from T to 0."""
        return cosine_times(self.teacher.chain(None).process.schedule.gamma[1:], self.options.teacher_steps)

    @property
    def bounds(self) -> list[int]:
        """The student's t, from T to 0: where the segments meet."""
        return self.grid[:: self.options.teacher_steps // self.options.steps]

    @property
    def inspector(self) -> DistilledInspector:
        return DistilledInspector(self)

    @property
    def recipe(self) -> DistilledRecipe:
        return DistilledRecipe(self)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but that the teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def begin(self) -> None:
        """Let the student begin with the teacher's weights."""
        self.student.load_state_dict(self.teacher.state_dict())

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """max(SNR_t, 1) ‖target − f(x_t)‖² per dimension, t uniform on the teacher's steps.

        The weight: Salimans & Ho 2022 (9).
        """
        x_0, eps = to_unit(x, self.levels), draws.normal(Stream.TRAIN_NOISE, self.shape)
        t, s, r = self.places(draws.spread(Stream.TRAIN_TIME))
        chain = self.student.chain(None)
        x_t = chain.process.diffuse(x_0, t, eps)
        with torch.no_grad():
            teacher = clipping(self.teacher.chain(None))
            target = consistency_target(chain.process, teacher, chain.denoiser, x_t, t, s, r)
        error = (target - chain.denoiser(x_t, t).x_0).square().flatten(1).mean(1)
        return along(chain.process.schedule.snr.clamp(1.0, LARGEST_WEIGHT), t, error) * error

    def places(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, the next of the teacher's steps, and where the segment ends, from uniforms in [0, 1), shape (B,)."""
        N, size = self.options.teacher_steps, self.options.teacher_steps // self.options.steps
        place = (u * N).long().clamp(max=N - 1)
        grid = torch.tensor(self.grid, device=u.device)
        return grid[place], grid[place + 1], grid[(place // size + 1) * size]

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.inspector.describe_sampling(settings)  # refuses what it has no use for
        chain = self.student.chain(None)._replace(grid=self.bounds)
        return self.student.walk(DDIM(chain.process), chain, indices, seed, settings.clip)


class DistilledRecipe(Recipe):
    """The student alone is trained."""

    model: Distilled

    @property
    def groups(self) -> list[ParamGroup]:
        return [ParamGroup(list(self.model.student.parameters()))]


class DistilledInspector(Inspector):
    """How the student draws."""

    model: Distilled
    why_no_bound = "distilled to a map from noise to images, it cannot say how likely one is"

    def describe_sampling(self, settings: SampleSettings) -> str:
        steps = self.model.options.steps
        if settings.steps not in (None, steps):
            raise InputError("--steps", f"the run was distilled to {steps} steps; leave it out")
        for option in ("sampler", "eta", "temperature"):
            if getattr(settings, option) is not None:
                raise InputError(f"--{option}", f"the run was distilled to its own {steps} steps; leave it out")
        clipped = ", x̂_0 clipped to [−1, 1]" if settings.clip else ""
        return f"distilled, {steps} step{'s' * (steps > 1)}{clipped}"

    @property
    def sample_evaluations(self) -> int:
        return self.model.options.steps

    def facts(self) -> dict[str, object]:
        """The γ that the student is asked at."""
        gamma = self.model.student.chain(None).process.schedule.gamma
        return {"gamma_of_its_steps": [float(gamma[t]) for t, _ in pairwise(self.model.bounds)]}
