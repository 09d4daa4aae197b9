"""Texts about a diffusion model, and its compilable network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nelbo.diffusion.process import prior_term, signal_rate
from nelbo.models._diffusion_forms import bound_of
from nelbo.models._diffusion_labels import guidance_of, label_words
from nelbo.models._labels import class_count
from nelbo.models._sampling import PREVIEW_STEPS, described, fast_steps, quick_steps
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import PartsRecipe
from nelbo.models.sampling import SampleSettings
from nelbo.units import bits_per_dim

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion


class DiffusionInspector(Inspector):
    """How a diffusion model samples, and the ends of its schedule."""

    model: Diffusion

    @property
    def preview_settings(self) -> SampleSettings:
        return SampleSettings(steps=min(PREVIEW_STEPS, quick_steps(self.model)))

    @property
    def sample_evaluations(self) -> int:
        return fast_steps(self.model) * (1 if guidance_of(self.model, SampleSettings()) == 1 else 2)

    def describe_sampling(self, settings: SampleSettings) -> str:
        how = described(self.model, settings)
        if self.model.clusters is not None:
            where = "" if settings.label is None else " in its class"
            how = f"{how}, c drawn by the frequencies of the clusters{where}"
        return how + label_words(self.model, settings)

    def facts(self) -> dict[str, object]:
        """The ends of the schedule, and the largest prior term: that of an image with every pixel at ±1."""
        bound = bound_of(self.model)
        ends = torch.tensor([bound.first, bound.last], dtype=torch.float64)
        prior = float(prior_term(torch.ones(1, *self.model.shape, dtype=torch.float64), ends[1]))
        if self.model.timeline.gammas is None:
            facts: dict[str, object] = {"gamma_at_0": bound.first, "gamma_at_1": bound.last}
        else:
            first, last = signal_rate(ends).tolist()
            facts = {"signal_rate_at_1": first, "signal_rate_at_T": last}
        if self.model.clusters is not None:
            facts["clusters"] = int(torch.count_nonzero(self.model.clusters.shares))
        return {**facts, **class_count(self.model), "prior_bits_per_dim_at_most": bits_per_dim(prior, self.model.dims)}


class DiffusionRecipe(PartsRecipe):
    """torch.compile compiles the network; the clusters are learned before the first step."""

    model: Diffusion

    def prepare(self, images: Tensor, levels: int, seed: int, labels: Tensor | None = None) -> None:
        """Compute the clusters, and with labels the share of each cluster in each class."""
        if self.model.clusters is not None:
            self.model.clusters.learn(images, levels, seed, labels)

    @property
    def compilable(self) -> list[nn.Module]:
        return [self.model.network]
