"""A progress bar on stderr, if it is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nelbo.processes import rank
from nelbo.watching import tell


@contextmanager
def progress_bar(title: str, total: int | None, *, bytes_: bool = False) -> Iterator[Callable[[int], None]]:
    """Show the progress of a task on stderr, if it is a terminal.

    Args:
        title: the task.
        total: the number of steps or bytes; None if unknown.
        bytes_: whether the steps are bytes.

    Yields:
        a function to call with the number of steps just done.
    """
    done = 0

    def told(steps: int) -> None:
        nonlocal done
        done += steps
        tell(title, done, total)

    if rank() or not sys.stderr.isatty():
        yield told
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nelbo.streams import Speaker

    count = DownloadColumn() if bytes_ else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Speaker(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            told(steps)

        yield advance
