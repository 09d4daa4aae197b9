"""Progress on stderr, where a person watches; silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nelbo.processes import rank
from nelbo.streams import Speaker
from nelbo.training import Step


def console() -> Speaker:
    """Where messages for people go: stderr, so that stdout holds results alone; only the main process speaks."""
    return Speaker(stderr=True, soft_wrap=True, quiet=rank() > 0)


@contextmanager
def bar(title: str, total: float) -> Iterator[Progress]:
    """A progress bar with one task, ``title``; drawn on a terminal and in a notebook."""
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
    with Progress(*columns, console=out, disable=not out.shows_bars, transient=False) as progress:
        progress.add_task(title, total=total, note="")
        yield progress


def training_note(step: Step, loss: float, rate: float) -> str:
    """Step, loss and speed, for the bar."""
    return f"step {step.step:,} · loss {loss:.4f} · {rate:,.0f} images/s"
