"""Ctrl-C and SIGTERM: the first is noted, so that a step can be finished and kept; the second ends at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

ECHO_SECONDS = 2.0
"""Launchers pass on the signal that a terminal sends to all: so soon after the first, a second one is the same."""
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What a second signal does where a shell has had it ignored, as of what it starts in the background."""


class Interrupted(Exception):  # noqa: N818
    """Training was asked to stop by a signal; a checkpoint has been written.

    Args:
        signum: the signal's number.
        step: the step of the checkpoint.
    """

    def __init__(self, signum: int, step: int) -> None:
        self.signum, self.step = signum, step
        super().__init__(f"stopped by signal {signum} at step {step}")


@contextmanager
def caught_signals(echo: float) -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of dying of it; a second one works as it always did.

    Outside the main thread signals cannot be caught, and none are.

    Args:
        echo: seconds in which a second signal is the first one's echo, and is passed over.
    """
    caught: list[int] = []
    old: dict[signal.Signals, object] = {}
    first = 0.0

    def note(signum: int, frame: object) -> None:
        nonlocal first
        if not caught:
            first = time.monotonic()
            caught.append(signum)
        elif time.monotonic() - first > echo:
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
        yield caught
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
