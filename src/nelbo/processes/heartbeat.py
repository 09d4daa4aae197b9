"""A sign of life from every process, by which one that has vanished with its machine is missed.

The connections of a process that ends are closed, and the others hear of it at once. A machine that loses its power or
its cable says nothing, and a process that waits for it may wait for a quarter of an hour. So each writes a number into
the store that the launcher keeps, and reads those of the others.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any

END = b"end"
BEAT, MISSED = 5.0, 8
"""Seconds between two signs of life, and how many may be missed in a row.

Beats are counted and not seconds, so that processes which were all stopped for an hour do not miss each other.
"""


class Heartbeat:
    """Beats, listens, and says whom it has not heard.

    Args:
        store: a connection to the launcher's store, for this alone: it may hang.
        rank, count: which process this is, of how many.
        alarm: is told who is silent, once; from another thread, while the process may hang in a message of its own.
    """

    def __init__(self, store: Any, rank: int, count: int, alarm: Callable[[str], None]) -> None:
        self.store, self.rank, self.alarm = store, rank, alarm
        self.others = [other for other in range(count) if other != rank]
        self.stopped = threading.Event()
        self.waited = 0
        self.beating = threading.Thread(target=self.beat, daemon=True)
        self.beating.start()
        threading.Thread(target=self.watch, daemon=True).start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Beat no more, and let the others know that this is the end and no loss."""
        self.stopped.set()
        self.beating.join(timeout=1.0)

    def beat(self) -> None:
        """Write, and read what the others have written."""
        own, seen, missed = 0, dict.fromkeys(self.others, b""), dict.fromkeys(self.others, 0)
        try:
            while not self.stopped.wait(BEAT):
                own += 1
                self.store.set(self.key(self.rank), str(own))
                keys = {other: self.key(other) for other in self.others}
                heard = {other: self.store.get(key) if self.store.check([key]) else b"" for other, key in keys.items()}
                self.waited = 0
                for other, number in heard.items():
                    missed[other] = missed[other] + 1 if number == seen[other] != END else 0
                    seen[other] = number
                    if missed[other] == MISSED:
                        self.call(f"process {other} has been silent for {BEAT * MISSED:.0f} seconds")
            self.store.set(self.key(self.rank), END.decode())
        except RuntimeError:  # the store is closed, and did not vanish
            self.stopped.set()

    def watch(self) -> None:
        """See to it that the store answers."""
        while not self.stopped.wait(BEAT):
            self.waited += 1
            if self.waited > MISSED:
                self.call(f"their launcher has been silent for {BEAT * MISSED:.0f} seconds")

    def call(self, who: str) -> None:
        """Give the alarm, if it is not over."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.alarm(who)

    @staticmethod
    def key(rank: int) -> str:
        """Where a process writes."""
        return f"beat-{rank}"
