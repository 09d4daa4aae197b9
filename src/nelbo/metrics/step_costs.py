"""The costs of all steps between the γ of a grid, for a model and images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.diffusion.spacing import nearest_latents
from nelbo.diffusion.steps import GRID, StepCosts, measured_costs
from nelbo.metrics._evaluating import evaluating
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models._diffusion_clusters import shown_clusters
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.rng import Draws


def grid_of(model: Diffusion, size: int = GRID) -> Tensor:
    """γ evenly spaced between the ends of a model: all distinct nearest latents of a chain; float64, shape (n,)."""
    bound = bound_of(model)
    even = torch.linspace(bound.first, bound.last, size, dtype=torch.float64)
    return even if model.timeline.gammas is None else nearest_latents(model.timeline.gammas, even)


@on_own_cores()
@torch.no_grad()
def score_steps(
    model: Diffusion,
    images: Images,
    *,
    seed: int = 0,
    batch: int = 32,
    size: int = GRID,
    progress: Callable[[int], None] = lambda done: None,
) -> StepCosts:
    """The mean costs of all steps, with the model's σ². The noise of image i does not depend on the batch.

    Args:
        model: a diffusion model, on its device.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1, as a tensor or a NumPy array.
        seed: the seed of the noise.
        batch: images per batch.
        size: the number of γ.
        progress: called with the number of images done.

    Returns:
        The costs, in nats per image.

    Raises:
        InputError: the images do not fit the model, or a number is out of range.
    """
    images = checked_images(model, images)
    checked_int("batch", batch, 1)
    checked_int("size", size, 2)
    checked_seed(seed)
    gammas, n, parts = grid_of(model, size), len(images), []
    with evaluating(model):
        for first in range(0, n, batch):
            x = images[first : first + batch].to(model.device)
            draws = Draws(seed, 0, range(first, first + len(x)), n, model.device)
            found = measured_costs(bound_of(shown_clusters(model, x)), model.variance, gammas, x, draws)
            parts.append(StepCosts(gammas, *(len(x) / n * part for part in found[1:])))
            progress(first + len(x))
    return StepCosts(gammas, *(torch.stack(each).sum(0) for each in list(zip(*parts, strict=True))[1:]))
