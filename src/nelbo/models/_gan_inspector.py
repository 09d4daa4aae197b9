"""Pictures, measures and texts of a GAN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.models._checks import Images, checked_images
from nelbo.models._collapse import TOO_EARLY, collapse_line, spread
from nelbo.models._games import cross_entropy, hinge, require_game
from nelbo.models._labels import class_count, class_words
from nelbo.models._latent import ROWS, at_temperature
from nelbo.models.inspector import Inspector
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Stream, normal
from nelbo.theory.adversarial import js_lower_bound, total_variation_lower_bound
from nelbo.theory.likelihoods import to_unit

if TYPE_CHECKING:
    from nelbo.models.gan import GAN

SURE = 0.99
"""A discriminator with this accuracy on unseen images and samples has won, and gives the generator no signal."""


class GANInspector(Inspector):
    """The discriminator's output on unseen images and samples, and how much samples vary."""

    model: GAN
    why_no_bound = "a GAN has no likelihood of an image"
    earliest_warning = TOO_EARLY

    def measures(self, images: Images, start: int = 0, batch: int = 256) -> dict[str, Tensor]:
        """D's output on unseen images and on as many samples, and its lower bound of a divergence.

        Cross-entropy: D(x), D(G(z)) and ½ V + ln 2, whose expectation is at most JS(data, G). Hinge: ℓ and 1 − ½ L_D,
        at most total variation. wgan-gp: ℓ and its gap, neither a bound nor a probability. D receives the cluster of
        each image and sample itself, because the lower bound holds for functions of x alone.
        """
        model = self.model
        images = checked_images(model, images)
        real, drawn = (torch.cat(parts) for parts in zip(*self._answers(images, start, batch), strict=True))
        if model.options.loss == "wgan-gp":
            return {"critic_of_images": real, "critic_of_samples": drawn, "critic_gap": real - drawn}
        if model.options.loss == "hinge":
            bound = total_variation_lower_bound(hinge(real, drawn))
            return {"critic_of_images": real, "critic_of_samples": drawn, "total_variation_at_least": bound}
        bound = js_lower_bound(-cross_entropy(real, drawn))
        return {"D_of_images": real.sigmoid(), "D_of_samples": drawn.sigmoid(), "jensen_shannon_at_least": bound}

    def _answers(self, images: Tensor, start: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """ℓ of these images, from index ``start`` on, and of samples with the same index, float64, in batches."""
        model = self.model
        for first in range(0, len(images), batch):
            x_0 = to_unit(images[first : first + batch].to(model.device), model.levels)
            drawn = self._unseen(range(start + first, start + first + len(x_0)))
            real, seen = (model._judge(part, model.cluster(part)).double().cpu() for part in (x_0, drawn))
            yield real, seen

    def _unseen(self, indices: Sequence[int]) -> Tensor:
        """Samples to evaluate D on, independent of those of :meth:`GAN.frames`, shape (len(indices), C, H, W)."""
        model = self.model
        z = normal(0, Stream.SCORE_NOISE, 0, indices, (model.options.latent,), device=model.device)
        return model.draw(z, model._drawn_cluster(0, Stream.SCORE_CLUSTER, indices))

    @torch.no_grad()
    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        model = self.model
        images = checked_images(model, images)
        if model.clusters is None:
            return []
        x_0 = to_unit(images.to(model.device), model.levels)
        z = normal(0, Stream.SCORE_NOISE, 1, range(ROWS * len(x_0)), (model.options.latent,), device=model.device)
        drawn = model.draw(z, model.clusters(x_0).repeat(ROWS))
        return [("images; below each, samples from its cluster", torch.cat([x_0, drawn]), len(x_0))]

    @torch.no_grad()
    def diagnostics(self, images: Images) -> dict[str, object]:
        """How much samples vary compared with images, and D's accuracy on both, on up to 1000 images."""
        model = self.model
        images = checked_images(model, images)
        images = images[:1000].to(model.device)
        x_0 = to_unit(images, model.levels)
        variety = spread(self._unseen(range(len(x_0))), x_0)
        real, seen = (torch.cat(parts) for parts in zip(*self._answers(images, 0, 256), strict=True))
        right = float(torch.cat([real > 0, seen < 0]).double().mean())
        return variety if model.options.loss == "wgan-gp" else variety | {"discriminator_right": right}

    def warnings(self, diagnostics: Mapping[str, object]) -> list[str]:
        """Collapse, if samples hardly vary; otherwise a discriminator that is almost always right."""
        collapsed, right = collapse_line(diagnostics), diagnostics.get("discriminator_right")
        if collapsed is not None:
            return [f"{collapsed}; raise `r1` or lower `lr`"]
        if isinstance(right, float) and right > SURE:
            share = f"{100 * right:.0f}% of unseen images and samples"
            return [f"the discriminator has won: it is right about {share}; raise `r1` or lower `critic_lr`"]
        return []

    def describe_sampling(self, settings: SampleSettings) -> str:
        model = self.model
        require_game(model, model.options.loss, settings)
        if (settings.steps or 1) > 1:
            how = f"the last of {settings.steps} G(z) in a Metropolis–Hastings chain with D"
        elif model.clusters is None:
            how = f"G(z), z from N(0, I){at_temperature(settings)}"
        else:
            clusters = "c drawn by the frequencies of the clusters of training images"
            how = f"G(z, c), z from N(0, I){at_temperature(settings)}, {clusters}"
        return how + class_words(model, settings)

    def facts(self) -> Mapping[str, object]:
        model = self.model
        sizes = (model.generator, model.critic)
        generator, critic = (sum(p.numel() for p in network.parameters()) for network in sizes)
        return {"generator_parameters": generator, "discriminator_parameters": critic, **class_count(model)}
