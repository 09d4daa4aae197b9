"""The previews that fit into a share of the time of training, by what they cost on this machine.

Work is counted in evaluations: one image through the network once. Until a preview has been timed, an evaluation is
taken to cost as much as an image of a training step, which is more than it does, as that has a backward pass too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from nelbo.options import TrainingOptions

SHARE = 0.05
"""Previews take at most this share of the time of training."""
FREE_SECONDS = 20.0
"""Of a run by steps, which may end in seconds, they may take so long all together in any case."""


class TooSlowError(Exception):
    """A preview takes longer than it may."""


class Size(NamedTuple):
    """How much is scored or drawn.

    Attributes:
        images: how many.
        each: evaluations per image: of ``val`` timesteps of each replicate, of a grid sampling steps.
        work: evaluations in all.
    """

    images: int
    each: int
    work: int


def val_sizes(timesteps: int) -> list[Size]:
    """Sets of ``val`` images to choose from, each scored twice, the largest first."""
    pairs = [(128, timesteps), (64, timesteps), (32, timesteps), (32, 1), (16, 1)]
    return [Size(images, each, 2 * images * each) for images, each in pairs]


def grid_sizes(steps: int) -> list[Size]:
    """Grids of samples to choose from, the largest first."""
    pairs = [(36, steps), (16, steps), (16, min(steps, 10)), (4, min(steps, 10))]
    return [Size(images, each, images * each) for images, each in pairs]


class PreviewBudget:
    """What previews may cost, and what they have cost.

    Args:
        options: the recipe.
        clock: seconds from any moment on.

    Attributes:
        spent: seconds, all previews of this session.
        evaluation: seconds of one, by the steps of training.
        rates: the same of each kind of preview, as measured when there was one.
        made: how many previews were made, of either kind.
    """

    def __init__(self, options: TrainingOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.options, self.clock = options, clock
        self.spent = self.evaluation = 0.0
        self.rates: dict[str, float] = {}
        self.made = 0

    def left(self, seconds: float) -> float:
        """Seconds that previews may still take after so many seconds of training, previews included."""
        free = 0.0 if self.options.steps is None else FREE_SECONDS
        return max(free, SHARE * seconds) - self.spent

    def cost(self, kind: str, size: Size) -> float:
        """Seconds that a preview of this size takes."""
        return size.work * self.rates.get(kind, self.evaluation)

    def choose(self, kind: str, sizes: Sequence[Size], seconds: float) -> Size | None:
        """The largest that fits into so many seconds; None if none does."""
        return next((size for size in sizes if self.cost(kind, size) <= seconds), None)

    @contextmanager
    def timed(self, kind: str, size: Size, limit: float) -> Iterator[Callable[[float], None]]:
        """Time a preview, which is given up where it takes longer than ``limit`` seconds.

        Yields:
            What is to be told, piece by piece, how much of the preview is done, in (0, 1].
        """
        began, share = self.clock(), 0.0

        def tell(done: float) -> None:
            nonlocal share
            share = done
            if done < 1.0 and self.clock() - began > limit:
                raise TooSlowError

        try:
            yield tell
            self.made += 1
        except TooSlowError:
            pass
        finally:
            took = self.clock() - began
            self.spent += took
            if share:
                self.rates[kind] = took / (size.work * share)
