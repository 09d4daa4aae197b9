"""The bound of single images, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.metrics._evaluating import evaluating
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models.base import LikelihoodModel
from nelbo.rng import Draws


@dataclass(frozen=True)
class PixelScore:
    """The bound of n images. For each image, the pixels of the terms that have them, and the other terms, sum to it.

    Args:
        terms: name → estimates in nats, float64, shape (n, R).
        pixels: name → nats of each pixel, averaged over the R estimates, float64, shape (n, C, H, W).
    """

    terms: dict[str, Tensor]
    pixels: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the terms, shape (n, R)."""
        return torch.stack(list(self.terms.values())).sum(0)

    @property
    def stderr(self) -> Tensor:
        """The Monte Carlo error of each image's bound, in nats, shape (n,): √(s²/R)."""
        return self.total.std(1) / self.total.shape[1] ** 0.5


@on_own_cores()
@torch.no_grad()
def score_pixels(
    model: LikelihoodModel,
    images: Images,
    rows: Sequence[int],
    *,
    seed: int = 0,
    timesteps: int | None = None,
    replicates: int = 2,
    batch: int = 128,
    form: str | None = None,
    k: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> PixelScore:
    """The bound of some images, pixel by pixel, with the noise that they have in a score of all images.

    Args:
        model: the model, on its device.
        images: integer levels 0 … L−1, shape (N, C, H, W), as a tensor or a NumPy array.
        rows: the indices of the n images.
        seed, timesteps, replicates, batch, form, k: as in :func:`~nelbo.metrics.score_likelihood`.
        progress: called with the number of estimates done, of n · R.

    Raises:
        InputError: the images do not fit the model, a number is out of range, or the model does not have the form.
    """
    images, estimator = checked_images(model, images), model.forms.named(form)
    checked_int("replicates", replicates, 2)
    checked_int("batch", batch, 1)
    checked_seed(seed)
    count = model.forms.count(estimator, timesteps, k)
    parts = []
    with evaluating(model):
        for first in range(0, len(rows), batch):
            some = list(rows[first : first + batch])
            x, bounds = images[some].to(model.device), []
            for replicate in range(replicates):
                bounds.append(estimator.estimate(x, Draws(seed, replicate, some, len(images), model.device), count))
                progress(first * replicates + (replicate + 1) * len(some))
            parts.append(bounds)
    terms = _together([[bound.terms for bound in bounds] for bounds in parts])
    pixels = _together([[bound.pixels for bound in bounds] for bounds in parts])
    return PixelScore(terms, {name: each.mean(1) for name, each in pixels.items()})


def _together(parts: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Batch → replicate → name → (B, …), as name → (n, R, …), float64, on the CPU."""
    return {
        name: torch.cat([torch.stack([each[name].double().cpu() for each in batch], 1) for batch in parts])
        for name in parts[0][0]
    }
