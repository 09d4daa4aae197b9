"""The images of each step; for CUDA, a thread gathers the next ones and copies them while a step is computed.

Images stay 8-bit until they are on the device, where they are binarised and mirrored. A batch is a function of its
step, so a run that resumes, or goes back to a checkpoint, asks for the same batches again.

On the CPU there is no thread. A gather takes a thousandth of a step there, and a second thread with operations of torch
would make GNU's OpenMP wait by sleeping in all threads, because there are more of them than cores: a step on two cores
took 87 ms instead of 57.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.cores import leave_core
from nelbo.training.batches import Batches
from nelbo.training.gradients import Part

AHEAD = 2
"""The number of batches to prepare beyond the current one."""


class Batch(NamedTuple):
    """One process's share of a batch.

    Attributes:
        images: integer levels, uint8, shape (b, C, H, W).
        labels: the class of each image, 1 … K, 0 if unknown, int64, shape (b,); None without labels.
    """

    images: Tensor
    labels: Tensor | None

    def split(self, parts: Sequence[Part]) -> list[tuple[Batch, Part]]:
        """The consecutive parts of this share, each with its part of the whole batch."""
        sizes = [len(part.places) for part in parts]
        images = torch.split(self.images, sizes)
        labels = [None] * len(sizes) if self.labels is None else torch.split(self.labels, sizes)
        return [(Batch(x, y), part) for x, y, part in zip(images, labels, parts, strict=True)]


class Feed:
    """One process's share of every batch, on its device.

    Args:
        batches: the batches of the run.
        places: the places of this process's share, among 0 … B−1.
        device: the device of the images.
    """

    def __init__(self, batches: Batches, places: Sequence[int], device: torch.device) -> None:
        self.batches, self.places, self.device = batches, places, device
        self.ahead = Ahead(batches, places, device) if device.type == "cuda" else None

    def take(self, step: int) -> Batch:
        """The images and labels of this step.

        Raises:
            OSError: the images cannot be read.
        """
        found = self.ahead.take(step) if self.ahead else self.gathered(step)
        return found._replace(images=self.batches.augment(found.images, step, self.places))

    def gathered(self, step: int) -> Batch:
        """The images and labels of this step as they are in the data, on the device."""
        labels = self.batches.gather_labels(step, self.places)
        images = self.batches.gather(step, self.places).to(self.device)
        return Batch(images, None if labels is None else labels.to(self.device))


class Ahead:
    """A thread that gathers batches into pinned memory, and copies them on a stream of its own.

    Args:
        batches, places, device: as in :class:`Feed`; the device is a CUDA device.
    """

    def __init__(self, batches: Batches, places: Sequence[int], device: torch.device) -> None:
        self.batches, self.places, self.device = batches, places, device
        self.thread = ThreadPoolExecutor(1, "nelbo-feed", leave_core)
        self.coming: dict[int, Future[tuple[Batch, torch.cuda.Event]]] = {}
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, step: int) -> Batch:
        """The batch of this step; starts to prepare the next ones. The current stream waits for the copy."""
        for wanted in range(step, step + 1 + AHEAD):
            if wanted not in self.coming:
                self.coming[wanted] = self.thread.submit(self.send, wanted)
        for stale in [known for known in self.coming if not step <= known <= step + AHEAD]:
            self.coming.pop(stale).cancel()
        batch, copied = self.coming.pop(step).result()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for part in batch:
            if part is not None:
                part.record_stream(current)
        return batch

    def send(self, step: int) -> tuple[Batch, torch.cuda.Event]:
        """In the thread: gather the batch of a step, and start its copy; returns it and the end of the copy."""
        shape = (len(self.places), *self.batches.images.shape[1:])
        pinned = self.batches.gather(step, self.places, torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        labels = self.batches.gather_labels(step, self.places)
        labels = None if labels is None else labels.pin_memory()
        with torch.cuda.stream(self.stream):
            images = pinned.to(self.device, non_blocking=True)
            labels = None if labels is None else labels.to(self.device, non_blocking=True)
            return Batch(images, labels), self.stream.record_event()
