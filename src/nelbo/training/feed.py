"""The next batches: a thread gathers them and copies them to the device while a step is computed.

Images stay 8-bit until they are on the device, where they are binarised and mirrored. A batch is a function of its
step, so a run that resumes, or goes back to a checkpoint, asks for the same batches again.
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
        self.thread = ThreadPoolExecutor(1, "nelbo-feed", leave_core)
        self.coming: dict[int, Future[Moving]] = {}
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def take(self, step: int) -> Tensor:
        """The images of this step, uint8, shape (b, C, H, W); starts to prepare those of the next steps.

        Raises:
            OSError: the images cannot be read.
        """
        for wanted in range(step, step + 1 + AHEAD):
            if wanted not in self.coming:
                self.coming[wanted] = self.thread.submit(self.send, wanted)
        for stale in [known for known in self.coming if not step <= known <= step + AHEAD]:
            self.coming.pop(stale).cancel()
        return self.batches.augment(self.coming.pop(step).result().at(self.device), step, self.places)

    def send(self, step: int) -> Moving:
        """In the thread: gather the images of a step; for CUDA into pinned memory, and start their copy."""
        if self.stream is None:
            return Moving(self.batches.gather(step, self.places))
        shape = (len(self.places), *self.batches.images.shape[1:])
        pinned = self.batches.gather(step, self.places, torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        with torch.cuda.stream(self.stream):
            return Moving(pinned.to(self.device, non_blocking=True), self.stream.record_event())


class Moving:
    """Images on their way to a device.

    Args:
        images: the images; on the device if there is an event, else on the CPU.
        event: the end of the copy.
    """

    def __init__(self, images: Tensor, event: torch.cuda.Event | None = None) -> None:
        self.images, self.event = images, event

    def at(self, device: torch.device) -> Tensor:
        """The images on the device; the current stream waits for the copy, the host does not."""
        if self.event is None:
            return self.images.to(device)
        current = torch.cuda.current_stream(device)
        current.wait_event(self.event)
        self.images.record_stream(current)
        return self.images
