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

import torch
from torch import Tensor

from nelbo.cores import leave_core
from nelbo.training.batches import Batches

AHEAD = 2
"""The number of batches to prepare beyond the current one."""


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

    def take(self, step: int) -> Tensor:
        """The images of this step, uint8, shape (b, C, H, W).

        Raises:
            OSError: the images cannot be read.
        """
        ahead = self.ahead
        images = ahead.take(step) if ahead else self.batches.gather(step, self.places).to(self.device)
        return self.batches.augment(images, step, self.places)


class Ahead:
    """A thread that gathers batches into pinned memory, and copies them on a stream of its own.

    Args:
        batches, places, device: as in :class:`Feed`; the device is a CUDA device.
    """

    def __init__(self, batches: Batches, places: Sequence[int], device: torch.device) -> None:
        self.batches, self.places, self.device = batches, places, device
        self.thread = ThreadPoolExecutor(1, "nelbo-feed", leave_core)
        self.coming: dict[int, Future[tuple[Tensor, torch.cuda.Event]]] = {}
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, step: int) -> Tensor:
        """The images of this step; starts to prepare those of the next. The current stream waits for the copy."""
        for wanted in range(step, step + 1 + AHEAD):
            if wanted not in self.coming:
                self.coming[wanted] = self.thread.submit(self.send, wanted)
        for stale in [known for known in self.coming if not step <= known <= step + AHEAD]:
            self.coming.pop(stale).cancel()
        images, copied = self.coming.pop(step).result()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        images.record_stream(current)
        return images

    def send(self, step: int) -> tuple[Tensor, torch.cuda.Event]:
        """In the thread: gather the images of a step, and start their copy; returns them and the end of the copy."""
        shape = (len(self.places), *self.batches.images.shape[1:])
        pinned = self.batches.gather(step, self.places, torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        with torch.cuda.stream(self.stream):
            return pinned.to(self.device, non_blocking=True), self.stream.record_event()
