"""The progress of a task for whoever watches the thread that computes it, and a way to end the task from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, float | None], None]
"""Called with the task, and the fraction that is done, or None if it is unknown. What it raises ends the task."""
Teller = Callable[[str, float, float | None], None]
"""Called with the task, the amount of work that is done, and all of it, or None if it is unknown."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(by: Watcher) -> Iterator[None]:
    """A context in which all progress of this thread is also told to ``by``."""
    before = _watcher.set(by)
    try:
        yield
    finally:
        _watcher.reset(before)


def tell(task: str, done: float, total: float | None) -> None:
    """Tell the watcher of this thread, if there is one.

    Args:
        task: the title of the task.
        done, total: the amount of work that is done, and all of it; None if unknown.

    >>> seen = []
    >>> with watched(lambda task, share: seen.append((task, share))):
    ...     tell("reading", 1, 4)
    >>> tell("reading", 2, 4)
    >>> seen
    [('reading', 0.25)]
    """
    teller()(task, done, total)


def teller() -> Teller:
    """:func:`tell` for the watcher of this thread, for other threads that work on its task."""
    watcher = _watcher.get()

    def told(task: str, done: float, total: float | None) -> None:
        if watcher is not None:
            watcher(task, done / total if total else None)

    return told
