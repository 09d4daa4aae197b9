"""Progress on stderr: a bar with the remaining time on a terminal, otherwise a line from time to time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from nelbo.processes import rank
from nelbo.streams import Speaker
from nelbo.watching import teller

FIRST_LINE = 10.0
"""Seconds until the first line; each following interval is twice as long."""
LEAST = 0.005
"""The share of the work that tells how long the rest takes: much less would be mostly the start."""


def console() -> Speaker:
    """The console for messages: stderr, because stdout has only results; only the main process prints."""
    return Speaker(stderr=True, soft_wrap=True, quiet=rank() > 0)


class TimeLeft(ProgressColumn):
    """The remaining time at the mean speed so far, which is also defined within a long piece of work."""

    def render(self, task: Task) -> Text:
        """``0:01:23 left``, or "" before the first piece is done."""
        left = seconds_left(task)
        return Text("" if left is None else f"{timedelta(seconds=round(left))} left")


def seconds_left(task: Task) -> float | None:
    """Remaining seconds of a task at its mean speed in this session; None while unknown."""
    begun, elapsed = task.fields["begun"], task.elapsed
    done = task.completed - begun
    if task.total is None or elapsed is None or done <= 0 or done < LEAST * (task.total - begun):
        return None
    return elapsed * max(0.0, task.total - task.completed) / done


class Bar(Progress):
    """A progress bar with one task.

    If stderr is not a terminal, it is not drawn, and a long task prints a line from time to time.

    Args:
        lines: whether to print these lines.
    """

    def __init__(self, *columns: ProgressColumn, lines: bool, **more: Any) -> None:
        super().__init__(*columns, **more)
        self.next = FIRST_LINE if lines else float("inf")
        self.tell = teller()  # for the thread that makes the bar, though others may move it

    def move(self, done: float, **fields: Any) -> None:
        """Set how much of ``total`` is done."""
        task = self.tasks[0]
        self.update(task.id, completed=done, **fields)
        self.tell(task.description, done, task.total)
        elapsed = task.elapsed or 0.0
        if elapsed < self.next:
            return
        self.next = 2 * elapsed
        left = seconds_left(task)
        far = "" if task.total is None else f": {100 * done / max(task.total, 1e-9):.0f}%"
        when = "" if left is None else f", about {timedelta(seconds=round(left))} left"
        self.console.print(f"{task.description}{far}{when}", soft_wrap=True)


@contextmanager
def bar(title: str, total: float | None, begun: float = 0.0, lines: bool = True) -> Iterator[Bar]:
    """A progress bar with one task.

    Args:
        title: the task.
        total: the amount of work; None if unknown.
        begun: the amount done before this session.
        lines: whether to print a line from time to time if stderr is not a terminal.
    """
    out = console()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeLeft(),
    )
    lines = lines and not out.shows_bars and not out.quiet
    with Bar(*columns, lines=lines, console=out, disable=not out.shows_bars, transient=False) as progress:
        task = progress.add_task(title, total=total, note="", begun=begun)
        progress.update(task, completed=begun)
        progress.tell(title, begun, total)
        yield progress
