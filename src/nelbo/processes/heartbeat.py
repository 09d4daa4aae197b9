"""A heartbeat of every process, which detects processes that vanish with their machine.

If a process ends, its connections close, and the others notice at once. If a machine loses power or its cable, nothing
closes, and a waiting process may wait for a quarter of an hour. So each process writes a counter into the launcher's
store, and reads the counters of the others.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any

END = b"end"
BEAT, MISSED = 5.0, 8
"""Seconds between two heartbeats, and how many in a row may be missed.

Heartbeats are counted instead of seconds, so that processes that were all suspended do not report each other.
"""


class Heartbeat:
    """Writes heartbeats, reads those of the others, and reports missing ones.

    Args:
        store: a connection to the launcher's store, for this object alone, because it can hang.
        rank, count: the number of this process, and the number of all.
        alarm: called once with a description of the silent process, from another thread.
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
        """Stop, and tell the others that this process ends normally."""
        self.stopped.set()
        self.beating.join(timeout=1.0)

    def beat(self) -> None:
        """Write the own counter and read those of the others, in a loop."""
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
        except RuntimeError:  # the store is closed normally
            self.stopped.set()

    def watch(self) -> None:
        """Check in a loop that the store responds."""
        while not self.stopped.wait(BEAT):
            self.waited += 1
            if self.waited > MISSED:
                self.call(f"their launcher has been silent for {BEAT * MISSED:.0f} seconds")

    def call(self, who: str) -> None:
        """Call the alarm, unless stopped."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.alarm(who)

    @staticmethod
    def key(rank: int) -> str:
        """The key of a process's counter."""
        return f"beat-{rank}"
