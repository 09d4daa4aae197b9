"""Processes that code chunks side by side, each with one thread, and others that check them with another number.

The parameters of a model's laws must not depend on the number of threads, or a file that decodes here would not decode
elsewhere. So a chunk is decoded again before it is written, by a process that has not encoded it and has two threads
(one, if the encoder has several). Both threads of a checking process run on one core: what matters is how a sum is
divided, not speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

import nelbo
from nelbo.codec.chunks import DamagedChunkError
from nelbo.codec.coder import Images
from nelbo.cores import ALLOWED, CHOSEN, SPIN
from nelbo.errors import InputError
from nelbo.jobs._frames import receive, send
from nelbo.torch_settings import num_threads

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POSIX = os.name == "posix"
Step = Callable[[int], object]


class WorkerError(RuntimeError):
    """A worker could not do what it was asked."""


class WorkerLostError(WorkerError):
    """A worker has ended."""


class ChunkWorker(Protocol):
    """Whoever codes chunks."""

    def encode(self, images: Images, first: int, step: Step) -> bytes:
        """A chunk of these images; ``first`` is the number of the first one."""

    def decode(self, payload: bytes, step: Step) -> Images:
        """The images of a chunk; raises DamagedChunkError."""


class Worker:
    """A process that codes chunks.

    Args:
        opening: what it opens: the run, its weights and the settings of the coder.
        threads: of its operations.
        core: the core of all its threads; None for any.
        shape: (C, H, W).

    Attributes:
        seconds: the processor time of what it has coded.
    """

    def __init__(self, opening: dict[str, Any], threads: int, core: int | None, shape: tuple[int, ...]) -> None:
        self.opening, self.shape, self.opened, self.seconds = opening, shape, False, 0.0
        self.threads, self.core, self.closed = threads, core, False
        self.process = self._started()

    def restart(self) -> None:
        """Another process instead of one that has ended, unless it was told to end."""
        self._end()
        if not self.closed:
            self.process, self.opened = self._started(), False
            if self.closed:  # meanwhile
                self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        """The process."""
        threads, core = self.threads, self.core
        environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
        environment |= dict.fromkeys(THREADS, str(threads))
        environment |= {"GOMP_SPINCOUNT": SPIN} if core is None else {"OMP_WAIT_POLICY": "PASSIVE"}
        folder = str(Path(nelbo.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([each for each in (os.environ.get("PYTHONPATH"), folder) if each])
        command = [sys.executable, "-P", "-m", "nelbo.jobs.codec_worker", str(os.getpid())]
        # A process group of its own, so that Ctrl-C reaches only this process, which ends the others.
        group = 0 if POSIX else None
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, process_group=group)
        if core is not None and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):
                os.sched_setaffinity(process.pid, {core})
        return process

    def open(self) -> None:
        """Wait until the process has opened its run.

        Raises:
            InputError: the run cannot be used.
            WorkerError: it could not be opened, or the process has ended.
        """
        if not self.opened:
            self._ask(self.opening, b"", id)
            self.opened = True

    def encode(self, images: Images, first: int, step: Step) -> bytes:
        """A chunk of these images."""
        return self._ask({"do": "encode", "first": first}, images.tobytes(), step)

    def decode(self, payload: bytes, step: Step) -> Images:
        """The images of a chunk."""
        return np.frombuffer(self._ask({"do": "decode"}, payload, step), np.uint8).reshape(-1, *self.shape)

    def close(self) -> None:
        """End the process."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        """End the process."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self.process.wait()

    def _ask(self, said: dict[str, Any], data: bytes, step: Step) -> bytes:
        """The answer.

        Raises:
            InputError, DamagedChunkError: as the worker raised them.
            WorkerError: it raised something else, or has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            send(self.process.stdin, said, data)
            while True:
                answer, found = receive(self.process.stdout)
                if "step" not in answer:
                    break
                step(answer["step"])
        except (EOFError, OSError):
            code = self.process.wait()
            why = "was killed; is there enough memory?" if code == -9 else f"ended with code {code}"
            raise WorkerLostError(f"a process that codes images {why}") from None
        if "where" in answer:
            raise InputError(answer["where"], answer["problem"])
        if answer.get("error") == DamagedChunkError.__name__:
            raise DamagedChunkError(answer["message"])
        if "error" in answer:
            raise WorkerError(f"{answer['error']}: {answer['message']}")
        self.seconds += answer["seconds"]
        return found


class Here:
    """A coder in this process, for a model that has parts from Python.

    Args:
        coder: codes chunks.
        threads: of its operations.

    Attributes:
        seconds: the processor time of what it has coded.
    """

    def __init__(self, coder: ChunkWorker, threads: int) -> None:
        self.coder, self.threads, self.seconds = coder, threads, 0.0

    def open(self) -> None:
        """It is open."""

    def restart(self) -> None:
        """It cannot end."""

    def encode(self, images: Images, first: int, step: Step) -> bytes:
        """A chunk of these images."""
        with num_threads(self.threads), self.timed():
            return self.coder.encode(images, first, step)

    def decode(self, payload: bytes, step: Step) -> Images:
        """The images of a chunk."""
        with num_threads(self.threads), self.timed():
            return self.coder.decode(payload, step)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the processor time of the body."""
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start

    def close(self) -> None:
        """Nothing to end."""


class Lane(NamedTuple):
    """Two workers that take turns on a core.

    Attributes:
        coder: encodes, or decodes.
        checker: decodes what the other has encoded; None without a check.
    """

    coder: Worker | Here
    checker: Worker | Here | None


class Crew:
    """Lanes of workers.

    Args:
        make: makes a worker from its number of threads and its core.
        lanes: chunks that are coded at once.
        together: the threads of a single lane.
        check: whether each lane has a checker.
    """

    def __init__(
        self, make: Callable[[int, int | None], Worker | Here], lanes: int, together: int, check: bool
    ) -> None:
        places = sorted(ALLOWED) or [0]
        threads = 1 if lanes > 1 else together
        self.lanes: list[Lane] = []
        try:
            for number in range(lanes):
                core = places[number % len(places)]
                checker = (1, None) if threads > 1 else (2, core)
                self.lanes.append(Lane(make(threads, None), make(*checker) if check else None))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for lane in self.lanes:
            for worker in lane:
                if worker is not None:
                    worker.close()
