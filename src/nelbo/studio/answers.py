"""Answers to events of the page: quick ones, and long ones with progress that can be stopped. Errors are one line."""

from __future__ import annotations

import errno
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.html import busy, note, problem
from nelbo.studio.words import duration, plain
from nelbo.torch_settings import DEFAULT_DTYPE
from nelbo.watching import watched

PATIENCE = 0.4
"""Seconds before the progress of an answer is shown."""
EVERY = 0.25
SETTLED = 3.0
"""Seconds of a task after which its remaining time is estimated, and the least that is shown."""
STOPPED = "Stopped. Nothing was written."
AT_ONCE = 4
"""Long answers of all visitors that may wait at the same time; they are computed one after another."""

COMPUTING = threading.Lock()
WARM = threading.Event()
"""Set when what computes is imported. Answers wait for it: two threads must not import the same modules at once."""
Answer = Callable[..., Sequence[Any]]
"""From the values of the inputs to a note, as HTML, and the values of the outputs."""


class StoppedError(Exception):
    """A visitor stopped the answer, or has left."""


class Work:
    """A long answer, computed in a thread of its own.

    Args:
        answer: the function.
        values: its arguments.
    """

    def __init__(self, answer: Answer, values: Sequence[Any]) -> None:
        self.task: str = "waiting for another answer of the studio"
        self.share: float | None = None
        self.began = time.monotonic()
        self.found: Sequence[Any] | None = None
        self.error: BaseException | None = None
        self.left = threading.Event()
        self.done = threading.Event()
        threading.Thread(target=self._compute, args=(answer, values), daemon=True).start()

    def _compute(self, answer: Answer, values: Sequence[Any]) -> None:
        try:
            while not COMPUTING.acquire(timeout=EVERY):
                self._see(self.task, None)
            try:
                self._see("starting", None)
                WARM.wait()
                self._see("working", None)
                with watched(self._see):
                    self.found = answer(*values)
            finally:
                COMPUTING.release()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    @property
    def remaining(self) -> str:
        """The time that is left of the task, after its first seconds; "" if it is unknown or short."""
        taken = time.monotonic() - self.began
        left = taken * (1 / self.share - 1) if self.share else 0.0
        return duration(round(left)) if taken > SETTLED and left > SETTLED else ""

    def _see(self, task: str, share: float | None) -> None:
        if task != self.task:
            self.began = time.monotonic()
        self.task, self.share = task, share
        if self.left.is_set():
            raise StoppedError


Going = dict[str | None, set[Work]]
"""The long answers of one button that are computed, by visit."""


def long(answer: Answer, outputs: int, going: Going | None = None) -> Callable[..., Iterator[list[Any]]]:
    """An event's function that shows the progress of an answer, and ends the answer if the visitor leaves.

    Args:
        answer: the function, which returns a note and the values of the outputs.
        outputs: the number of outputs besides the note.
        going: where :func:`stopper` finds it; then the last output is the button that stops, which can be pressed while
            there is something to stop.
    """

    def button(on: bool) -> list[Any]:
        return [] if going is None else [gr.Button(interactive=on)]

    def call(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        work = Work(answer, values)
        visits = {} if going is None else going
        visits.setdefault(request.session_hash, set()).add(work)
        try:
            wait = PATIENCE
            while not work.done.wait(wait):
                stopping = work.left.is_set()
                line = busy("stopping", None) if stopping else busy(work.task, work.share, work.remaining)
                yield [line, *[gr.skip()] * outputs, *button(not stopping)]
                wait = EVERY
            yield [*result(work, outputs), *button(False)]
        finally:
            work.left.set()
            visits[request.session_hash].discard(work)
            if not visits[request.session_hash]:
                del visits[request.session_hash]

    return call


def stopper(going: Going) -> Callable[[gr.Request], Any]:
    """The function of a button that stops: the answers of this visit end, and say so themselves.

    Gradio's own way would also end an answer that begins in the next moment.
    """

    def call(request: gr.Request) -> Any:
        for work in tuple(going.get(request.session_hash, ())):
            work.left.set()
        return gr.Button(interactive=False)

    return call


def result(work: Work, outputs: int) -> list[Any]:
    """What an answer shows, or its error."""
    if isinstance(work.error, StoppedError):
        return [note(STOPPED), *[gr.skip()] * outputs]
    if work.error is not None:
        return [problem(sentence(work.error)), *[gr.skip()] * outputs]
    assert work.found is not None
    return list(work.found)


def quick(answer: Answer, outputs: int) -> Callable[..., list[Any]]:
    """An event's function for an answer within a fraction of a second.

    Args:
        answer: the function, which returns a note and the values of the outputs.
        outputs: the number of outputs besides the note.
    """

    def call(*values: Any) -> list[Any]:
        WARM.wait()
        try:
            with DEFAULT_DTYPE:  # a file that is being written may need another for a moment, and waits
                return list(answer(*values))
        except Exception as error:
            return [problem(sentence(error)), *[gr.skip()] * outputs]

    return call


def sentence(error: BaseException) -> str:
    """One line about an error for the visitor; an unforeseen one is printed where the studio was started."""
    if isinstance(error, InputError):
        return plain(error)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"{name}the disk is full. Nothing was lost; make room and try again."
        return f"{name}{error.strerror or error}"
    if isinstance(error, MemoryError | RuntimeError) and "memory" in str(error).lower():
        return "There is not enough memory for this; ask for fewer images."
    traceback.print_exception(error, file=sys.stderr)
    return f"An unforeseen error: {type(error).__name__}. Its details are in the terminal of the studio."


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a function, and the seconds that it took."""
    began = time.monotonic()
    return function(), time.monotonic() - began


def warm() -> None:
    """Import what computes, so that the first answer is quick; then answers begin."""
    try:
        import nelbo.jobs.browse
        import nelbo.jobs.denoise
        import nelbo.jobs.edit
        import nelbo.jobs.sample
        import nelbo.studio.held  # noqa: F401
    finally:
        WARM.set()
