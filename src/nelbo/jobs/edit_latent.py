"""The verbs of ``nelbo edit`` for a vae or hvae: inpaint by a Markov chain, and interpolate through latents."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nelbo.editing.constraints import Mask
from nelbo.editing.methods import Numbers
from nelbo.jobs.edit_task import Drawing, Task, drawn_in_batches
from nelbo.models._imputation import LatentSpace, VAESpace, impute
from nelbo.models.base import GenerativeModel
from nelbo.theory.likelihoods import to_levels

SWEEPS = 100


class LatentEditor:
    """Edits images with a model of latents.

    Args:
        model: the model.
        space: its latents.
        sweeps: of the Markov chain; None for SWEEPS.
    """

    def __init__(self, model: GenerativeModel, space: LatentSpace, sweeps: int | None) -> None:
        self.model, self.space, self.sweeps = model, space, sweeps or SWEEPS

    @property
    def caveat(self) -> str:
        """How the law of the hidden pixels differs from the model's."""
        if isinstance(self.space, VAESpace):
            return "exact in the limit of many sweeps"
        return "biased: q(z|x) is used in place of the posterior of z"

    def conditioned(self, task: Task) -> Drawing:
        """inpaint: hidden pixels drawn given the seen ones."""
        model, mask = self.model, task.constraint
        assert isinstance(mask, Mask)
        x = to_levels(task.x, model.levels).to(model.device)
        seen = mask.seen.to(model.device)

        def steps(rows: Tensor, numbers: Numbers) -> Iterator[Tensor]:
            return impute(self.space, x[rows], seen, model.levels, self.sweeps, numbers)

        done = drawn_in_batches(task, model, steps, self.sweeps, task.batch)
        return done._replace(evaluations=self.sweeps)

    def between(self, x: Tensor, count: int) -> Tensor:
        """``count`` images from the first to the second of two, on straight lines between the means of q(z|x).

        Args:
            x: two images on [−1, 1], shape (2, C, H, W).
            count: the number of images.

        Returns:
            Integer levels of the means of p(x|z), shape (count, C, H, W).
        """
        levels, device = self.model.levels, self.model.device
        zeros = [torch.zeros(2, *size, device=device) for size in self.space.sizes]
        ends = self.space.infer(to_levels(x, levels).to(device), zeros)
        share = torch.linspace(0, 1, count, device=device)
        z = []
        for end in ends:
            u = share.reshape(-1, *[1] * (end.ndim - 1))
            z.append((1 - u) * end[:1] + u * end[1:])
        return to_levels(self.space.law(z).expectation(), levels).cpu()
