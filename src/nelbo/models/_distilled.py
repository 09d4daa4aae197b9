"""Consistency distillation of a diffusion model in K segments (Song et al. 2023; Heek et al. 2024).

The teacher takes N steps of DDIM with η = 0. With ρ = √(ᾱ/(1−ᾱ)) a step from t to s is

    x_s/√(1−ᾱ_s) = x_t/√(1−ᾱ_t) + (ρ_s − ρ_t) x̂_0

so several steps from t to r equal one step with the mean of their x̂_0, weighted by the parts of ρ_r − ρ_t. The student
learns to predict this mean at t, with r the end of t's segment. The target uses the teacher's x̂_0 for the first step,
and the student's own x̂_0 after that step for the rest.

Both know the cluster of an image and its label, and the teacher has guidance g by them, which the student learns (Meng
et al. 2023): one evaluation a step then draws what takes the teacher two.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser, clipping
from nelbo.diffusion.guidance import Guided
from nelbo.diffusion.known import Known
from nelbo.diffusion.process import diffuse, per_image
from nelbo.diffusion.samplers import DDIM
from nelbo.diffusion.spacing import cosine_steps
from nelbo.errors import InputError
from nelbo.models._diffusion_clusters import given, shown_clusters, shown_drawn_clusters
from nelbo.models._diffusion_labels import require_guidance
from nelbo.models._labels import class_words, drawn_labels, hidden_labels
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
"""The largest weight of the loss at one t; SNR is unbounded near the image."""


class DistillationOptions(Options):
    """The settings of a distillation."""

    teacher: str = ""
    "The run that was distilled."
    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    "K, the number of steps of the student."
    teacher_steps: Annotated[int, Field(ge=1, le=100_000)] = 64
    "N, the number of steps of the teacher, a multiple of K."
    guidance: Annotated[float, Field(ge=0)] = 1.0
    "g, the guidance of the teacher by cluster and label; 1 is none."


def consistency_target(
    teacher: Denoiser, student: Denoiser, z_t: Tensor, gamma_t: Tensor, gamma_s: Tensor, gamma_r: Tensor
) -> Tensor:
    """The x̂_0 of one step from z_t to the end of the teacher's and the student's steps  [Heek et al. 2024 (8)].

    w x̂_0(z_t) + (1 − w) f(z_s),  w = (ρ_s − ρ_t)/(ρ_r − ρ_t),  with z_s the teacher's step from z_t.

    Args:
        teacher, student: (z, γ) → x̂_0 and ε̂; f is the student's x̂_0.
        z_t: shape (B, …).
        gamma_t, gamma_s, gamma_r: γ of z_t, of the end of the teacher's step, and of the end of the segment, shape
            (B,), with γ_r ≤ γ_s < γ_t; −∞ is the image.

    Returns:
        Shape (B, …). If s = r, this is the teacher's x̂_0; if r is the image and s is not, the student's.
    """
    taught = teacher(z_t, gamma_t)
    z_s = DDIM().step(z_t, taught, gamma_t, gamma_s).mean
    ahead = student(z_s, torch.where(gamma_s.isfinite(), gamma_s, gamma_t)).x_0  # not used at the image
    rho_t, rho_s, rho_r = ((-0.5 * gamma).exp() for gamma in (gamma_t, gamma_s, gamma_r))
    share = torch.where(gamma_s == gamma_r, 1.0, (rho_s - rho_t) / (rho_r - rho_t))
    share = per_image(share, z_t)
    return share * taught.x_0 + (1 - share) * ahead


class Distilled(GenerativeModel):
    """A student that samples in K steps, and its teacher, which does not change.

    Args:
        student: a diffusion model; the teacher is a copy of it.
        options: the settings of the distillation.

    Raises:
        InputError: the model cannot be distilled, the numbers of steps do not fit, or the guidance is out of range or
            by nothing.
    """

    def __init__(self, student: Diffusion, options: DistillationOptions) -> None:
        super().__init__(student.shape, student.levels)
        if student.predicts in ("eps", "mean"):
            why = f"it predicts {student.predicts}, which does not determine the image at pure noise"
            raise InputError("RUN", f"cannot be distilled: {why}; distill a run with `predict` v")
        self.family = f"distilled {student.family}"
        self.options = options
        self.classes = student.classes
        require_guidance(options.guidance)
        if options.guidance != 1 and student.clusters is None and not self.classes:
            raise InputError("guidance", "is by a cluster or a label, and the run has neither; leave it out")
        self.student, self.teacher = student, copy.deepcopy(student).requires_grad_(False)
        K, N = options.steps, options.teacher_steps
        if N % K:
            raise InputError("teacher_steps", f"{N} is not a multiple of the {K} steps of the student")
        cosine_steps(student.timeline.chain(), N)  # raises if N is out of range

    @property
    def teacher_gammas(self) -> Tensor:
        """γ of the teacher's steps, decreasing to −∞."""
        return cosine_steps(self.teacher.timeline.chain(), self.options.teacher_steps)

    @property
    def student_gammas(self) -> Tensor:
        """γ of the student's steps, decreasing to −∞; the ends of the segments."""
        return self.teacher_gammas[:: self.options.teacher_steps // self.options.steps]

    @property
    def inspector(self) -> DistilledInspector:
        return DistilledInspector(self)

    @property
    def recipe(self) -> DistilledRecipe:
        return DistilledRecipe(self)

    def train(self, mode: bool = True) -> Self:
        """As :meth:`torch.nn.Module.train`, but the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def begin(self) -> None:
        """Copy the teacher's weights to the student."""
        self.student.load_state_dict(self.teacher.state_dict())

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """max(SNR_t, 1) ‖target − f(x_t)‖² per dimension, t uniform on the teacher's steps.

        The weight is that of Salimans & Ho 2022 (9). The model's fraction ``label_dropout`` of the images hide their
        labels from both.
        """
        x_0, eps = to_unit(x, self.levels), draws.normal(Stream.TRAIN_NOISE, self.shape)
        gamma_t, gamma_s, gamma_r = self._places(draws.spread(Stream.TRAIN_TIME))
        z_t = diffuse(x_0, gamma_t, eps)
        known = self._known(x, draws)
        teacher, student = (given(model, known).denoiser for model in (self.teacher, self.student))
        if self.options.guidance != 1:
            teacher = Guided(teacher, self.options.guidance)
        with torch.no_grad():
            target = consistency_target(clipping(teacher), student, z_t, gamma_t, gamma_s, gamma_r)
        error = (target - student(z_t, gamma_t).x_0).square().flatten(1).mean(1)
        return (-gamma_t).exp().clamp(1.0, LARGEST_WEIGHT).to(error) * error

    def _known(self, x: Tensor, draws: Draws) -> Known:
        """The cluster of each image, and the label of most."""
        known = shown_clusters(self.teacher, x, draws.labels).denoiser.known
        return known.without_labels(hidden_labels(draws, self.teacher.label_dropout) if self.classes else None)

    def _places(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """γ_t, γ after the teacher's next step, and γ at the segment's end, from uniforms, shape (B,)."""
        N, size = self.options.teacher_steps, self.options.teacher_steps // self.options.steps
        place = (u * N).long().clamp(max=N - 1)
        gammas = self.teacher_gammas.to(u.device)
        return gammas[place], gammas[place + 1], gammas[(place // size + 1) * size]

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.inspector.describe_sampling(settings)  # raises for unused settings
        student = shown_drawn_clusters(self.student, indices, seed, drawn_labels(self, indices, settings))
        return walk(student, DDIM(), self.student_gammas, indices, seed, settings.clip)


class DistilledRecipe(Recipe):
    """Only the student is trained."""

    model: Distilled

    @property
    def groups(self) -> list[ParamGroup]:
        return [ParamGroup(list(self.model.student.parameters()))]


class DistilledInspector(Inspector):
    """How the student samples."""

    model: Distilled
    why_no_bound = "a distilled run maps noise to images and has no likelihood"

    def describe_sampling(self, settings: SampleSettings) -> str:
        steps = self.model.options.steps
        if settings.steps not in (None, steps):
            raise InputError("steps", f"the run was distilled to {steps} steps; leave it out")
        for option in ("sampler", "eta", "temperature"):
            if getattr(settings, option) is not None:
                raise InputError(option, f"the run was distilled to its own {steps} steps; leave it out")
        for option in ("guidance", "guidance_interval", "weaker"):
            if getattr(settings, option) is not None:
                raise InputError(
                    option, f"the run was distilled with guidance {self.model.options.guidance:g}; leave it out"
                )
        words = [f"distilled, {steps} step{'s' * (steps > 1)}"]
        words += [", x̂_0 clipped to [−1, 1]"] * settings.clip + [class_words(self.model, settings)]
        words += [f", guidance {self.model.options.guidance:g}"] * (self.model.options.guidance != 1)
        return "".join(words)

    @property
    def sample_evaluations(self) -> int:
        return self.model.options.steps

    def facts(self) -> dict[str, object]:
        """γ at the student's steps."""
        return {"gamma_of_its_steps": self.model.student_gammas[:-1].tolist()}
