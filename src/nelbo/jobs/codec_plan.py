"""How images are divided into chunks, and chunks between workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from nelbo.codec import chunks
from nelbo.codec.chunks import enough_plain
from nelbo.codec.coder import Coder, EachCoder, Images
from nelbo.jobs.codec_crew import Lane
from nelbo.limits import cores, memory

WASTE = 0.005
"""The largest share of a chunk that filling its initial bits may cost, if there are enough images."""
SAVED = 0.35
"""The share by which a model's code is taken to be shorter than that of no model, before it is known."""
MOST_IMAGES = 4096
"""Of a chunk, unless its initial bits need more."""
MOST_EACH = 256
"""Of a chunk of images that are coded one by one: what is decoded to have one of them."""
MOST_THREADS = 4
"""Of a process that codes alone: the batches are small."""
LANE_MEMORY = 2 << 30
"""Bytes of memory for each pair of processes."""


class Counter:
    """Adds up the progress of several threads.

    Args:
        move: is told the sum.
    """

    def __init__(self, move: Callable[[float], object]) -> None:
        self.move, self.sum = move, 0

    def add(self, count: int) -> None:
        """Add some."""
        self.sum += count
        self.move(self.sum)


def in_order(lanes: Sequence[Lane], spans: Sequence[Any], pool: ThreadPoolExecutor, work: Any) -> Iterator[Any]:
    """The results of all spans in their order; each lane works on one span at a time."""
    waiting, free_lanes = list(enumerate(spans)), list(lanes)
    running: dict[Future[Any], tuple[int, Lane]] = {}
    done: dict[int, Any] = {}
    following = 0
    while following < len(spans):
        while waiting and free_lanes:
            number, span = waiting.pop(0)
            lane = free_lanes.pop()
            running[pool.submit(work, lane, span)] = number, lane
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            number, lane = running.pop(future)
            done[number] = future.result()
            free_lanes.append(lane)
        while following in done:
            yield done.pop(following)
            following += 1


def usable_cores() -> int:
    """Whole cores of this machine, at least one."""
    return max(1, round(cores()))


def usable_threads() -> int:
    """Threads of a process that codes alone."""
    return min(MOST_THREADS, usable_cores())


def usable_lanes() -> int:
    """Chunks that can be coded at once."""
    return max(1, min(usable_cores(), memory() // LANE_MEMORY))


def planned(images: Images, coder: Coder | EachCoder, each: bool, lanes: int) -> tuple[list[int], int]:
    """The first image of each chunk, and n; and the number of images that fill the initial bits of the first chunk.

    A chunk is so long that filling its initial bits costs less than ``WASTE`` of it, and at most ``MOST_IMAGES``, if
    that is longer. If there is more than one, their number is a multiple of that of the lanes, unless chunks would then
    have more than ``chunks.MOST_IMAGES``.
    """
    n = len(images)
    least, plain = 1, 0
    if not each:
        size = 4 * coder.initial_words()  # type: ignore[union-attr]
        plain, data = enough_plain(images, size)
        if plain:
            rate = (1 - SAVED) * len(data) / plain  # bytes of an image
            least = int((len(data) - plain * rate) / (WASTE * rate)) + plain
    most = min(MOST_IMAGES, MOST_EACH) if each else MOST_IMAGES
    number = max(1, min(n // least, max(lanes, -(-n // most))))
    number = number // lanes * lanes if number >= lanes else number
    number = max(number, -(-n // chunks.MOST_IMAGES))
    return np.linspace(0, n, number + 1).round().astype(int).tolist(), plain
