"""Pictures, diagnostics and texts of a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.models._checks import Images, checked_images
from nelbo.models._labels import class_count, class_words
from nelbo.models._latent import ROWS, at_temperature, between, likelihood_name, require_drawing
from nelbo.models.inspector import Inspector
from nelbo.models.sampling import SampleSettings
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import kl_normal

if TYPE_CHECKING:
    from nelbo.models.vae import VAE

ACTIVE = 0.01
"""A dimension of z is active if its mean's variance over images exceeds this (Burda et al. 2016)."""


class VAEInspector(Inspector):
    """Which dimensions of z are active, reconstructions, and changes of z along a dimension."""

    model: VAE

    @torch.no_grad()
    def diagnostics(self, images: Images, batch: int = 256) -> dict[str, object]:
        """KL of each dimension of z in nats, averaged over the images, and the number of active dimensions."""
        model = self.model
        images = checked_images(model, images)
        parts = [model._encode(to_unit(x.to(model.device), model.levels)) for x in torch.split(images, batch)]
        mean, var = (torch.cat(part).double().cpu() for part in zip(*parts, strict=True))
        kl = kl_normal(mean, var, torch.zeros_like(mean), torch.ones_like(var)).mean(0)
        active = int((mean.var(0) > ACTIVE).sum()) if len(mean) > 1 else None
        return {"kl_per_dimension": kl.tolist(), "active_units": active}

    def warnings(self, diagnostics: Mapping[str, object]) -> list[str]:
        """Posterior collapse."""
        dead = "posterior collapse: no dimension of z carries information about x; try `kl_warmup` or `free_bits`"
        return [dead] if diagnostics["active_units"] == 0 else []

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        model = self.model
        images = checked_images(model, images)
        x_0 = to_unit(images.to(model.device), model.levels)
        q, columns = model._encode(x_0), len(x_0)
        lines = between(q.mean[:ROWS], q.mean[-ROWS:].flip(0), columns)
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var)).mean(0)
        largest = kl.argsort(descending=True)[:ROWS]
        walk = q.mean[:1, None].repeat(len(largest), columns, 1)
        for row, dimension in enumerate(largest):
            walk[row, :, dimension] = torch.linspace(-3, 3, columns, device=walk.device)
        return [
            (
                "images; below, the means of p(x|z) at the means of q(z|x)",
                torch.cat([x_0, self._means(q.mean)]),
                columns,
            ),
            ("decoded from straight lines between means of q(z|x)", self._means(lines), columns),
            (
                "the first image's z, with one dimension of large KL from −3 to 3 in each row",
                self._means(walk.flatten(0, 1)),
                columns,
            ),
        ]

    def _means(self, z: Tensor) -> Tensor:
        """The means of p(x|z), on the scale where levels fill [−1, 1], shape (B, C, H, W)."""
        return self.model._decode(z).expectation()

    def describe_sampling(self, settings: SampleSettings) -> str:
        require_drawing(self.model, settings)
        labels = class_words(self.model, settings)
        return f"z from the prior{at_temperature(settings)}, pixels at the mean of p(x|z){labels}"

    def facts(self) -> dict[str, object]:
        return {"p(x|z)": likelihood_name(self.model.law), **class_count(self.model)}
