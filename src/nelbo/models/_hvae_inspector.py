"""Pictures, diagnostics and texts of a hierarchical VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.models._checks import Images, checked_images
from nelbo.models._labels import class_count, class_words
from nelbo.models._latent import at_temperature, likelihood_name, require_drawing
from nelbo.models.inspector import Inspector
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Stream, normal
from nelbo.theory.likelihoods import to_unit

if TYPE_CHECKING:
    from nelbo.models.hvae import HVAE

SILENT = 0.01
"""A level whose KL is below this number of nats carries no information."""


class HVAEInspector(Inspector):
    """Which levels carry information, and what each level adds to an image."""

    model: HVAE

    @torch.no_grad()
    def diagnostics(self, images: Images, batch: int = 256) -> dict[str, object]:
        """Levels without information about the image; only for top-down levels, whose terms are divergences."""
        model = self.model
        images = checked_images(model, images)
        if not model.downwards:
            return {}
        parts = []
        for first in range(0, len(images), batch):
            x = images[first : first + batch].to(model.device)
            indices = range(first, first + len(x))
            noise = normal(0, Stream.SCORE_NOISE, 0, indices, (sum(model._sizes),), device=x.device)
            parts.append(model._walk_down(x, model._cut(noise)).kl.cpu())
        kl = torch.cat(parts, 1).double().mean(1)
        return {"silent_levels": [t for t, value in enumerate(kl.tolist(), 1) if value < SILENT]}

    def warnings(self, diagnostics: Mapping[str, object]) -> list[str]:
        """Posterior collapse of all or some levels."""
        model = self.model
        silent = diagnostics.get("silent_levels")
        if not isinstance(silent, list) or not silent:
            return []
        which = "no level carries information" if len(silent) == model.options.depth else f"levels {silent} carry none"
        return [f"posterior collapse: {which} about x; try `kl_warmup` or `free_bits`"]

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        """The content of each level: the upper levels from q, the lower ones at their means under p."""
        model = self.model
        images = checked_images(model, images)
        x, columns = images.to(model.device), len(images)
        noise = [torch.zeros(columns, *size, device=x.device) for size in model.ladder.maps]
        rows, latents = [to_unit(x, model.levels)], []
        if model.downwards:
            latents = model._walk_down(x, noise).latents
        else:
            for t in range(1, model.options.depth + 1):
                latents.append(model._above(latents[-1] if latents else rows[0], t).mean)
        for count in range(1, model.options.depth + 1):
            features = model._generate(noise, latents[::-1][:count])
            rows.append(model.pixels(model.ladder.image(features)).expectation())
        title = "images; below, z_T alone is inferred, then z_T and z_{T−1}, …; the rest has its mean under p"
        return [(title, torch.cat(rows), columns)]

    def describe_sampling(self, settings: SampleSettings) -> str:
        require_drawing(self.model, settings)
        how = (
            f"z_T from the prior, each z_t given those above{at_temperature(settings)}, pixels at the mean of p(x|z_1)"
        )
        return how + class_words(self.model, settings)

    def facts(self) -> dict[str, object]:
        model = self.model
        sizes = " → ".join("×".join(map(str, size)) for size in reversed(model.ladder.maps))
        return {
            "p(x|z_1)": likelihood_name(model.pixels),
            "latents": f"{sizes}, z_{model.options.depth} first",
            **class_count(model),
        }
