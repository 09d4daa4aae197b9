"""The processes of one run: each one's part of the work, and agreement between them.

A launcher (``torchrun``, ``accelerate launch``) starts the same command once for every device, on one machine or many,
and sets RANK and WORLD_SIZE. Processes exchange texts, numbers and tensors, never pickles. Only the main process,
number 0, writes and prints.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nelbo.errors import InputError
from nelbo.processes.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch import Tensor

FAILED, WELL = b"!", b"="
TRANSPORT = re.compile(r"gloo|nccl|connection|\bpeer\b|socket|process ?group|timed? ?out|\bstore\b", re.IGNORECASE)
"""Words in the errors of torch.distributed."""


class ElsewhereError(Exception):
    """The main process cannot continue, and has printed the reason.

    Args:
        code: the exit code.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__("the main process could not continue")


class ProcessLostError(Exception):
    """Another process of this run has stopped or is unreachable.

    Args:
        why: the transport's message, or the silent process.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"another process of this run has stopped or is unreachable ({why})")


def rank() -> int:
    """The number of this process; 0 for a single process."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def count() -> int:
    """The number of processes that the launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def place(devices: int) -> int:
    """The index of this process's device on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(1, devices)


def shares_asked() -> bool:
    """Whether the launcher asks for sharded weights: ``accelerate launch --use_fsdp``."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


class Team:
    """The processes that share the work.

    Args:
        rank: the number of this process, from 0.
        count: the number of processes; with one, every method returns that process's own value.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, total: int, rank: int | None = None) -> range:
        """The indices of this process's part (or that of another ``rank``) of ``total`` items, as even as possible.

        If there are fewer items than processes, each process has all of them.

        >>> [list(Team(rank, 3).share(4)) for rank in range(3)]
        [[0], [1], [2, 3]]
        """
        if total < self.count:
            return range(total)
        rank = self.rank if rank is None else rank
        return range(total * rank // self.count, total * (rank + 1) // self.count)

    def together(self, rows: Tensor, total: int) -> Tensor:
        """The rows of all parts of ``total``, in order, on every process.

        Args:
            rows: the rows of this process's part, any dtype, shape (len(share), …).
            total: the number of all rows.

        Returns:
            Shape (total, …).

        Raises:
            ProcessLostError: a process has stopped.
        """
        if self.count == 1 or total < self.count:
            return rows
        import torch
        from torch import distributed

        sizes = [len(self.share(total, rank)) for rank in range(self.count)]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        with others_reached():
            distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def greatest(self, values: Sequence[float]) -> list[float]:
        """The maximum of each value over all processes.

        Raises:
            ProcessLostError: a process has stopped.
        """
        if self.count == 1:
            return list(values)
        import torch
        from torch import distributed

        reduced = torch.tensor(values, dtype=torch.float64)
        with others_reached():
            distributed.all_reduce(reduced, distributed.ReduceOp.MAX)
        greatest: list[float] = reduced.tolist()
        return greatest

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, in place.

        Raises:
            ProcessLostError: a process has stopped.
        """
        if self.count > 1:
            from torch import distributed

            with others_reached():
                distributed.all_reduce(value)
            value /= self.count
        return value

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Copy the main process's values to every process, in place.

        Raises:
            ProcessLostError: a process has stopped.
        """
        if self.count > 1:
            from torch import distributed

            with others_reached():
                for tensor in tensors:
                    distributed.broadcast(tensor, 0)

    def from_main(self, make: Callable[[], bytes]) -> bytes:
        """The result of ``make`` in the main process, on every process; if it fails, all stop.

        Raises:
            ElsewhereError: on the other processes, if ``make`` raised; on the main process, the original exception.
            ProcessLostError: a process has stopped.
        """
        if self.count == 1:
            return make()
        if not self.main:
            message = self.heard()
            if message[:1] == FAILED:
                raise ElsewhereError(int(message[1:]))
            return message[1:]
        try:
            made = make()
        except Exception as error:
            self.tell(FAILED + str(2 if isinstance(error, InputError) else 1).encode())
            raise
        self.tell(WELL + made)
        return made

    def tell(self, message: bytes) -> None:
        """Send bytes to all other processes."""
        import numpy as np
        import torch

        self.same([torch.tensor([len(message)]), torch.from_numpy(np.frombuffer(bytearray(message), dtype=np.uint8))])

    def heard(self) -> bytes:
        """Receive bytes from the main process."""
        import torch

        size = torch.zeros(1, dtype=torch.long)
        self.same([size])
        message = torch.empty(int(size), dtype=torch.uint8)
        self.same([message])
        return message.numpy().tobytes()


ALONE = Team()

heartbeat: Heartbeat | None = None
"""This process's heartbeat, after :func:`join`."""
GO_ON = "; start all processes again, 'train' with --resume"


def join() -> Team:
    """Connect to the other processes of the launcher; the single process if there is no launcher.

    From then on this process ends, with a message on stderr, if another one vanishes with its machine.

    Raises:
        ProcessLostError: the others are unreachable.
    """
    global heartbeat
    if count() == 1:
        return ALONE
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(place(torch.cuda.device_count()))
        with others_reached():
            # A lost process is noticed at once, but reading a large folder may take long.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(backend, timeout=timedelta(days=1))
            store: Any = distributed.distributed_c10d._get_default_store()
        heartbeat = Heartbeat(store.clone(), rank(), count(), lambda who: give_up(ProcessLostError(who)))
    return Team(distributed.get_rank(), distributed.get_world_size())


def give_up(error: ProcessLostError) -> None:
    """End this process from any thread, because the main thread may wait for a response that does not come."""
    print(f"nelbo: {error}{GO_ON}", file=sys.stderr, flush=True)
    os._exit(1)


def leave() -> None:
    """Disconnect from the other processes when all are done, so that none seems lost."""
    torch = sys.modules.get("torch")
    if count() > 1 and torch is not None and torch.distributed.is_initialized():
        with others_reached():
            torch.distributed.barrier()
        if heartbeat is not None:
            heartbeat.stop()
        torch.distributed.destroy_process_group()


@contextmanager
def others_reached() -> Iterator[None]:
    """Turn the errors of every transport into ProcessLostError.

    Raises:
        ProcessLostError: another process has stopped or is unreachable.
    """
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not of_transport(error):
            raise
        why = str(error).splitlines()[0]
        raise ProcessLostError(why) from error


def of_transport(error: RuntimeError) -> bool:
    """Whether an error is from the communication; a compiler's or a device's errors have other types."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (type(error) is RuntimeError and bool(TRANSPORT.search(str(error))))
