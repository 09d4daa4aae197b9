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
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser, clipping
from nelbo.diffusion.process import diffuse, per_image
from nelbo.diffusion.samplers import DDIM
from nelbo.diffusion.spacing import cosine_steps
from nelbo.errors import InputError
from nelbo.models._sampling import walk
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import ParamGroup, Recipe
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.options import Options
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_unit

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
    teacher: Denoiser, student: Denoiser, z_t: Tensor, gamma_t: Tensor, gamma_s: Tensor, gamma_r: Tensor
) -> Tensor:
    """The x̂_0 that leads in one step from z_t to where teacher and student together lead  [Heek et al. 2024 (8)].

    w x̂_0(z_t) + (1 − w) f(z_s),  w = (ρ_s − ρ_t)/(ρ_r − ρ_t),  z_s being the teacher's step from z_t.

    Args:
        teacher, student: (z, γ) → x̂_0 and ε̂; f is the student's x̂_0.
        z_t: shape (B, …).
        gamma_t, gamma_s, gamma_r: γ_r ≤ γ_s < γ_t, shape (B,): where z_t is, where the teacher's step ends, and the
            segment; −∞ is the image.

    Returns:
        Shape (B, …). Where s = r it is the teacher's x̂_0, and where r is the image, before that, the student's.
    """
    taught = teacher(z_t, gamma_t)
    z_s = DDIM().step(z_t, taught, gamma_t, gamma_s).mean
    ahead = student(z_s, torch.where(gamma_s.isfinite(), gamma_s, gamma_t)).x_0  # at the image it is not used
    rho_t, rho_s, rho_r = ((-0.5 * gamma).exp() for gamma in (gamma_t, gamma_s, gamma_r))
    share = torch.where(gamma_s == gamma_r, 1.0, (rho_s - rho_t) / (rho_r - rho_t))
    share = per_image(share, z_t)
    return share * taught.x_0 + (1 - share) * ahead


class Distilled(GenerativeModel):
    """A student that walks in K steps, and the teacher that it learns from, which stays as it is.

    Args:
        student: a diffusion model; the teacher begins as its copy.
        options: how it is distilled.

    Raises:
        InputError: a model that cannot be distilled, or steps that it cannot take.
    """

    def __init__(self, student: Diffusion, options: DistillationOptions) -> None:
        super().__init__(student.shape, student.levels)
        if student.predicts in ("eps", "mean"):
            why = f"it predicts {student.predicts}, which in pure noise says nothing of the image"
            raise InputError("RUN", f"cannot be distilled: {why}; train one with `predict` v")
        self.family = f"distilled {student.family}"
        self.options = options
        self.student, self.teacher = student, copy.deepcopy(student).requires_grad_(False)
        K, N = options.steps, options.teacher_steps
        if N % K:
            raise InputError("teacher_steps", f"{N} is not a multiple of the {K} steps of the student")
        cosine_steps(student.timeline.chain(), N)  # refuses what cannot be

    @property
    def teacher_gammas(self) -> Tensor:
        """γ where the teacher stops, falling to −∞."""
        return cosine_steps(self.teacher.timeline.chain(), self.options.teacher_steps)

    @property
    def student_gammas(self) -> Tensor:
        """γ where the student stops, falling to −∞: where the segments meet."""
        return self.teacher_gammas[:: self.options.teacher_steps // self.options.steps]

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
        gamma_t, gamma_s, gamma_r = self._places(draws.spread(Stream.TRAIN_TIME))
        z_t = diffuse(x_0, gamma_t, eps)
        with torch.no_grad():
            teacher = clipping(self.teacher.denoiser)
            target = consistency_target(teacher, self.student.denoiser, z_t, gamma_t, gamma_s, gamma_r)
        error = (target - self.student.denoiser(z_t, gamma_t).x_0).square().flatten(1).mean(1)
        return (-gamma_t).exp().clamp(1.0, LARGEST_WEIGHT).to(error) * error

    def _places(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """γ_t, that of the next of the teacher's steps, and where the segment ends, from uniforms, shape (B,)."""
        N, size = self.options.teacher_steps, self.options.teacher_steps // self.options.steps
        place = (u * N).long().clamp(max=N - 1)
        gammas = self.teacher_gammas.to(u.device)
        return gammas[place], gammas[place + 1], gammas[(place // size + 1) * size]

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.inspector.describe_sampling(settings)  # refuses what it has no use for
        return walk(self.student, DDIM(), self.student_gammas, indices, seed, settings.clip)


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
            raise InputError("steps", f"the run was distilled to {steps} steps; leave it out")
        for option in ("sampler", "eta", "temperature"):
            if getattr(settings, option) is not None:
                raise InputError(option, f"the run was distilled to its own {steps} steps; leave it out")
        clipped = ", x̂_0 clipped to [−1, 1]" if settings.clip else ""
        return f"distilled, {steps} step{'s' * (steps > 1)}{clipped}"

    @property
    def sample_evaluations(self) -> int:
        return self.model.options.steps

    def facts(self) -> dict[str, object]:
        """The γ that the student is asked at."""
        return {"gamma_of_its_steps": self.model.student_gammas[:-1].tolist()}
