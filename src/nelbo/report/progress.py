"""Progress on stderr: a bar with the time left where a person watches, now and then a plain line elsewhere."""

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

FIRST_LINE = 10.0
"""Seconds until the first plain line; each of the next ones comes after twice as long."""


def console() -> Speaker:
    """Where messages for people go: stderr, so that stdout holds results alone; only the main process speaks."""
    return Speaker(stderr=True, soft_wrap=True, quiet=rank() > 0)


class TimeLeft(ProgressColumn):
    """The time left, at the mean speed so far: a speed over the last seconds is unknown where a piece takes longer."""

    def render(self, task: Task) -> Text:
        """``0:01:23 left``, or nothing before the first piece is done."""
        left = seconds_left(task)
        return Text("" if left is None else f"{timedelta(seconds=round(left))} left")


def seconds_left(task: Task) -> float | None:
    """Seconds until a task is done, at its mean speed since it began here; None while that is unknown."""
    done, elapsed = task.completed - task.fields["begun"], task.elapsed
    if task.total is None or elapsed is None or done <= 0:
        return None
    return elapsed * max(0.0, task.total - task.completed) / done


class Bar(Progress):
    """A progress bar with one task.

    Where stderr is no terminal it is not drawn, and what takes long says so in a plain line now and then.

    Args:
        lines: whether to write these lines.
    """

    def __init__(self, *columns: ProgressColumn, lines: bool, **more: Any) -> None:
        super().__init__(*columns, **more)
        self.next = FIRST_LINE if lines else float("inf")

    def move(self, done: float, **fields: Any) -> None:
        """Have so much done, of ``total``."""
        task = self.tasks[0]
        self.update(task.id, completed=done, **fields)
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
        title: what is being done.
        total: how much there is to do; None if unknown.
        begun: how much of it was done before.
        lines: whether to write a plain line now and then where stderr is no terminal.
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
        yield progress
