"""Progress on stderr, where a person watches; silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nelbo.processes import rank
from nelbo.training import Step


def console() -> Console:
    """Where messages for people go: stderr, so that stdout holds results alone; only the main process speaks."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=rank() > 0)


@contextmanager
def bar(title: str, total: float) -> Iterator[Progress]:
    """A progress bar with one task, ``title``; not drawn where stderr is no terminal."""
    out = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, disable=out.quiet or not out.is_terminal, transient=False) as progress:
        progress.add_task(title, total=total, note="")
        yield progress


def training_note(step: Step, loss: float, rate: float) -> str:
    """Step, loss and speed, for the bar."""
    return f"step {step.step:,} · loss {loss:.4f} · {rate:,.0f} images/s"
