"""What 'nelbo edit' asks of a model, and drawing it batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.samplers import State
from nelbo.editing.constraints import Constraint, Seen
from nelbo.editing.methods import Numbers
from nelbo.models.base import GenerativeModel
from nelbo.report.progress import bar
from nelbo.rng import Draws
from nelbo.theory.likelihoods import to_levels

APART = 2**20
"""The index of draw j of image i is APART · i + j, so that it does not depend on the number of draws."""
FRAMES = 60


@dataclass(frozen=True)
class Task:
    """Images, and how to draw from them.

    Args:
        x: the given images on [−1, 1], shape (M, C, h, w).
        n: draws of each image.
        seed: the seed of the noise.
        batch: images per batch.
        keep_frames: whether to keep about 60 states.
        constraint: what is seen of the images, if the verb has a constraint; None otherwise.
    """

    x: Tensor
    n: int
    seed: int
    batch: int
    keep_frames: bool
    constraint: Constraint | None = None

    def seen(self, device: torch.device) -> Seen:
        """What is seen: x itself, or for a reduced image x = y."""
        assert self.constraint is not None
        known = self.constraint.lift(self.x.to(device))
        return Seen(self.constraint, known)

    @property
    def rows(self) -> Tensor:
        """The image of each draw, shape (M n,)."""
        return torch.arange(len(self.x)).repeat_interleave(self.n)

    @property
    def indices(self) -> Tensor:
        """The index of each draw's noise, shape (M n,)."""
        return APART * self.rows + torch.arange(self.n).repeat(len(self.x))


class Drawing(NamedTuple):
    """Drawn images.

    Attributes:
        images: integer levels, uint8, shape (M n, C, H, W).
        frames: the same at earlier steps.
        evaluations: network evaluations of an image.
    """

    images: Tensor
    frames: list[Tensor]
    evaluations: int = 0


def drawn_in_batches(
    task: Task,
    model: GenerativeModel,
    states: Callable[[Tensor, Numbers], Iterable[State | Tensor]],
    steps: int,
    batch: int,
) -> Drawing:
    """Draw all images.

    Args:
        task: what is asked.
        model: the model, whose levels and device are used.
        states: the image of each draw, and their random numbers → the state after each step, or levels.
        steps: the number of steps, for the progress bar.
        batch: draws per batch.
    """
    every, done, stages = max(1, steps // FRAMES), [], []
    with bar(f"drawing {len(task.rows):,} images", len(task.rows)) as progress:
        for first in range(0, len(task.rows), batch):
            rows, indices = task.rows[first : first + batch], task.indices[first : first + batch]
            shown: list[Tensor] = []
            x = torch.empty(0)
            for number, state in enumerate(states(rows, numbers_of(task.seed, indices, model.device)), 1):
                progress.move(first + len(rows) * number / steps)
                x = state.z if isinstance(state, State) else state
                seen = state.denoised.x_0 if isinstance(state, State) and number < steps else x
                if task.keep_frames and (number % every == 0 or number == steps):
                    shown.append(levels_of(seen, model.levels))
            done.append(levels_of(x, model.levels))
            stages.append(shown)
    return Drawing(torch.cat(done), [torch.cat(parts) for parts in zip(*stages, strict=True)])


def levels_of(x: Tensor, levels: int) -> Tensor:
    """The image as levels on the CPU; levels stay as they are."""
    return (to_levels(x, levels) if x.is_floating_point() else x).cpu()


def numbers_of(seed: int, indices: Tensor, device: torch.device) -> Numbers:
    """The random numbers of the draws with these indices."""
    places = indices.tolist()
    return lambda number: Draws(seed, number, places, len(places), device)
