"""Ctrl-C and SIGTERM: the first is noted, so that a step can be finished and kept; the second ends at once.

What need not be finished is abandoned when the first one comes; the writing of a checkpoint gets some seconds more.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ECHO_SECONDS = 2.0
"""Launchers pass on the signal that a terminal sends to all: so soon after the first, a second one is the same."""
PATIENCE = 5.0
"""So many seconds after a signal, the writing of a checkpoint is given up."""
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What a second signal does where a shell has had it ignored, as of what it starts in the background."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop by a signal.

    Args:
        signum: the signal's number.
        step: the step of the last checkpoint; None if there is none.
        at: the step at which training stopped, if no checkpoint of it could be written in time.
    """

    def __init__(self, signum: int, step: int | None, at: int | None = None) -> None:
        self.signum, self.step = signum, step
        last = "there is none yet" if step is None else f"the last one is of step {step}"
        lost = "" if at is None else f"; its checkpoint took longer than {PATIENCE:.0f} s and was given up, {last}"
        super().__init__(f"stopped by signal {signum} at step {step if at is None else at}{lost}")


class Abandoned(BaseException):
    """A signal came in the middle of what need not be finished. No ``Exception``: nothing on the way may keep it."""


class Signals:
    """The first SIGINT or SIGTERM.

    Attributes:
        signum: its number; 0 as long as there is none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.came = 0.0
        self.unfinished = False

    def note(self, signum: int) -> None:
        """Take in the first signal.

        Raises:
            Abandoned: in the middle of what need not be finished.
        """
        self.signum, self.came = signum, time.monotonic()
        if self.unfinished:
            raise Abandoned

    def abandonable(self, work: Callable[[], Any]) -> bool:
        """Do work that ends where it is when a signal comes, or is not begun; returns whether it was done."""
        try:
            try:
                self.unfinished = True
                if not self.signum:
                    work()
                return not self.signum
            finally:
                self.unfinished = False
        except Abandoned:
            return False

    def finished(self, work: Callable[[], Any]) -> bool:
        """Do work that a signal must not cut, in a thread; returns False where it was not done in time after one.

        The thread then ends with the process, wherever it is, as it would in a process that is killed.

        Raises:
            Exception: what the work raised.
        """
        errors: list[BaseException | None] = []

        def attempt() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
            else:
                errors.append(None)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            if self.signum and time.monotonic() - self.came > PATIENCE and thread.is_alive():
                return False
        if errors[0] is not None:
            raise errors[0]
        return True


@contextmanager
def caught_signals(signals: Signals, echo: float) -> Iterator[None]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second one works as it always did.

    Outside the main thread signals cannot be caught, and none are.

    Args:
        signals: what notes it.
        echo: seconds in which a second signal is the first one's echo, and is passed over.
    """
    old: dict[signal.Signals, object] = {}

    def note(signum: int, frame: object) -> None:
        if not signals.signum:
            signals.note(signum)
        elif time.monotonic() - signals.came > echo:
            for number, handler in old.items():
                handler = USUAL[number] if handler == signal.SIG_IGN else handler
                signal.signal(number, handler)  # type: ignore[arg-type]
            signal.raise_signal(signum)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, note)
    except ValueError:
        pass
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
