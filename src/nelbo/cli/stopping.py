"""Ctrl-C and SIGTERM outside of training, which has its own way: nothing is to be kept, so the command ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nelbo.processes import count

PATIENCE = 5.0
"""Seconds for what is being written to be taken back, and for threads that read; then the process ends as it is."""


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
    """Raise :class:`Stopped` where a signal comes, and end the process where that leads to nothing in some seconds.

    A signal that the shell has had ignored stays ignored. Where a launcher has started several processes, a signal ends
    each of them as it does any program: one that waits for the others could not raise. Outside the main thread signals
    cannot be caught, and none are.
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
