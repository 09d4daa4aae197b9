"""The next batches, gathered by a thread and on their way to the device while a step is computed.

Images stay 8-bit until they are on the device, and are binarised and mirrored there. A batch is a function of its step,
so that a run that stops leaves nothing behind here, and one that goes back asks for other steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from nelbo.training.batches import Batches

AHEAD = 2
"""Batches that are ready or on their way beyond the one that is asked for."""


class Feed:
    """One process's share of every batch, on its device.

    Args:
        batches: the batches of the run.
        places: the places of this process's share, among 0 … B−1.
        device: where the images are wanted.
    """

    def __init__(self, batches: Batches, places: Sequence[int], device: torch.device) -> None:
        self.batches, self.places, self.device = batches, places, device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="nelbo-feed")
        self.coming: dict[int, Future[Moving]] = {}
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, step: int) -> Tensor:
        """The images of this step, uint8, shape (b, C, H, W); those of the next ones are sent for.

        Raises:
            OSError: the images cannot be read.
        """
        for wanted in range(step, step + 1 + AHEAD):
            if wanted not in self.coming:
                self.coming[wanted] = self.thread.submit(self.send, wanted)
        for stale in [known for known in self.coming if not step <= known <= step + AHEAD]:
            self.coming.pop(stale).cancel()
        return self.batches.augment(self.coming.pop(step).result().arrived(), step, self.places)

    def send(self, step: int) -> Moving:
        """Gather the images of a step into pinned memory and begin to copy them; in the thread."""
        if self.stream is None:
            return Moving(self.batches.gather(step, self.places).to(self.device))
        shape = (len(self.places), *self.batches.images.shape[1:])
        pinned = self.batches.gather(step, self.places, torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        with torch.cuda.stream(self.stream):
            return Moving(pinned.to(self.device, non_blocking=True), self.stream.record_event())


class Moving:
    """Images on their way to a device.

    Args:
        images: on the device.
        event: after which they are there; None if they are.
    """

    def __init__(self, images: Tensor, event: torch.cuda.Event | None = None) -> None:
        self.images, self.event = images, event

    def arrived(self) -> Tensor:
        """The images, for whatever the current stream does next; the host does not wait."""
        if self.event is not None:
            current = torch.cuda.current_stream(self.images.device)
            current.wait_event(self.event)
            self.images.record_stream(current)
        return self.images
