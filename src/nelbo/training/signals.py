"""Ctrl-C and SIGTERM: the first is recorded, so that a step can finish and be saved; the second ends the process.

Work that may stay unfinished is abandoned at the first signal; the writing of a checkpoint gets a few more seconds.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nelbo.cores import leave_core

ECHO_SECONDS = 2.0
"""A second signal within this time is an echo: launchers forward the signal that a terminal sends to all processes."""
PATIENCE = 5.0
"""Seconds after a signal, until the writing of a checkpoint is abandoned."""
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The handlers for a second signal if the shell ignores it, as for processes in the background."""


class Interrupted(Exception):  # noqa: N818
    """A signal stopped the training.

    Args:
        signum: the signal's number.
        step: the step of the last checkpoint; None if there is none.
        at: the step at which training stopped, if its checkpoint could not be written in time.
    """

    def __init__(self, signum: int, step: int | None, at: int | None = None) -> None:
        self.signum, self.step = signum, step
        last = "there is no earlier one" if step is None else f"the last one is of step {step}"
        lost = "" if at is None else f"; its checkpoint took longer than {PATIENCE:.0f} s and was abandoned, {last}"
        super().__init__(f"stopped by signal {signum} at step {step if at is None else at}{lost}")


class Abandoned(BaseException):
    """A signal came during work that may stay unfinished. A BaseException, so that no handler on the way catches it."""


class Signals:
    """The first SIGINT or SIGTERM.

    Attributes:
        signum: its number; 0 if there was none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.came = 0.0
        self.unfinished = False

    def note(self, signum: int) -> None:
        """Record the first signal.

        Raises:
            Abandoned: during work that may stay unfinished.
        """
        self.signum, self.came = signum, time.monotonic()
        if self.unfinished:
            raise Abandoned

    def abandonable(self, work: Callable[[], Any]) -> bool:
        """Do work that a signal interrupts or prevents; returns whether it was done."""
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
        """Do work in a thread that a signal does not interrupt; returns False if it took too long after a signal.

        The thread then ends with the process, as if the process were killed.

        Raises:
            Exception: the exception of the work.
        """
        errors: list[BaseException | None] = []

        def attempt() -> None:
            leave_core()
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
    """Record the first SIGINT or SIGTERM instead of ending; a second one has its usual effect.

    Outside the main thread signals cannot be caught.

    Args:
        signals: records the signal.
        echo: seconds in which a second signal is ignored as an echo of the first.
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
