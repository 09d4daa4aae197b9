"""Ctrl-C and SIGTERM outside of training: nothing needs to be saved, so the command ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nelbo.processes import count

PATIENCE = 5.0
"""Seconds for the removal of partial files and for reading threads; then the process ends."""


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end.

    Args:
        signum: its number.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by signal {signum}")


def leave(signum: int) -> None:
    """End the process, from any thread."""
    print(f"nelbo: stopped by signal {signum}", file=sys.stderr, flush=True)
    os._exit(128 + signum)


@contextmanager
def stopping() -> Iterator[None]:
    """Raise :class:`Stopped` at a signal, and end the process if that has no effect within some seconds.

    A signal that the shell ignores stays ignored. With several processes of a launcher, a signal has its usual effect,
    because a process that waits for others cannot raise. Outside the main thread signals cannot be caught.
    """
    old: dict[signal.Signals, object] = {}
    timers: list[threading.Timer] = []

    def stop(signum: int, frame: object) -> None:
        timers.append(threading.Timer(PATIENCE, leave, [signum]))
        timers[-1].daemon = True
        timers[-1].start()
        raise Stopped(signum)

    if count() == 1 and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
