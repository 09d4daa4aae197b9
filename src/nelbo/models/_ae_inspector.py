"""Pictures, measures and texts of an autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.models._checks import Images, checked_images
from nelbo.models._latent import ROWS, at_temperature, between, require_drawing
from nelbo.models.inspector import Inspector, require_unlabelled
from nelbo.models.sampling import SampleSettings
from nelbo.theory.likelihoods import to_unit

if TYPE_CHECKING:
    from nelbo.models.ae import AE


class AEInspector(Inspector):
    """The squared error, reconstructions, and straight lines between codes."""

    model: AE
    why_no_bound = "an autoencoder has no likelihood of an image"

    def measures(self, images: Images, start: int = 0, batch: int = 256) -> dict[str, Tensor]:
        """The squared error of the reconstruction, per dimension, on the scale where levels fill [−1, 1]."""
        model = self.model
        images = checked_images(model, images)
        parts = []
        for x in torch.split(images, batch):
            x_0 = to_unit(x.to(model.device), model.levels)
            parts.append((x_0 - model.decode(model.encode(x_0))).square().flatten(1).mean(1).cpu())
        return {"squared_error": torch.cat(parts)}

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        model = self.model
        images = checked_images(model, images)
        x_0 = to_unit(images.to(model.device), model.levels)
        z = model.encode(x_0)
        lines = between(z[:ROWS], z[-ROWS:].flip(0), len(x_0))
        return [
            ("images, and their reconstructions", torch.cat([x_0, model.decode(z)]), len(x_0)),
            ("decoded from straight lines between codes", model.decode(lines), len(x_0)),
        ]

    def describe_sampling(self, settings: SampleSettings) -> str:
        require_unlabelled("ae", settings, "use a run of another family, with `labels`")
        require_drawing(self.model, settings)
        law = f"a Gaussian fitted to the codes of training images{at_temperature(settings)}"
        return f"decoded from {law}; an ae has no prior"
