"""Previews that fit into a fraction of the training time, by their cost on this machine.

The unit of work is an evaluation: one image through the network once. Until a preview has been timed, an evaluation is
assumed to cost as much as an image of a training step, an upper bound because a step includes a backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from nelbo.options import TrainingOptions

SHARE = 0.05
"""Largest fraction of the training time for previews."""
FREE_SECONDS = 20.0
"""Seconds that all previews may take in any run with ``steps``, which may end in seconds."""


class TooSlowError(Exception):
    """A preview takes too long."""


class Size(NamedTuple):
    """The size of a preview.

    Attributes:
        images: the number of images.
        each: evaluations per image: timesteps of each replicate for ``val``, sampling steps for a grid.
        work: evaluations in total.
    """

    images: int
    each: int
    work: int


def val_sizes(timesteps: int) -> list[Size]:
    """Sizes of the score of ``val``, each with two replicates, the largest first."""
    pairs = [(128, timesteps), (64, timesteps), (32, timesteps), (32, 1), (16, 1)]
    return [Size(images, each, 2 * images * each) for images, each in pairs]


def grid_sizes(steps: int) -> list[Size]:
    """Sizes of a grid of samples, the largest first."""
    pairs = [(36, steps), (16, steps), (16, min(steps, 10)), (4, min(steps, 10))]
    return [Size(images, each, images * each) for images, each in pairs]


class PreviewBudget:
    """The allowed and the measured cost of previews.

    Args:
        options: the training options.
        clock: a clock in seconds.

    Attributes:
        spent: seconds of all previews of this session.
        evaluation: seconds of one evaluation, estimated from training steps.
        rates: kind of preview → measured seconds of one evaluation.
        made: the number of previews of both kinds.
    """

    def __init__(self, options: TrainingOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.options, self.clock = options, clock
        self.spent = self.evaluation = 0.0
        self.rates: dict[str, float] = {}
        self.made = 0

    def left(self, seconds: float) -> float:
        """Seconds that previews may still take after ``seconds`` of training, including previews."""
        free = 0.0 if self.options.steps is None else FREE_SECONDS
        return max(free, SHARE * seconds) - self.spent

    def cost(self, kind: str, size: Size) -> float:
        """The estimated seconds of a preview of this size."""
        return size.work * self.rates.get(kind, self.evaluation)

    def choose(self, kind: str, sizes: Sequence[Size], seconds: float) -> Size | None:
        """The largest size that fits into ``seconds``, or None."""
        return next((size for size in sizes if self.cost(kind, size) <= seconds), None)

    @contextmanager
    def timed(self, kind: str, size: Size, limit: float) -> Iterator[Callable[[float], None]]:
        """Time a preview, and abandon it after ``limit`` seconds.

        Yields:
            A function to call with the completed fraction of the preview, in (0, 1].
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
