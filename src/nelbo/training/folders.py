"""The folders of a run's checkpoints: list them, find the latest, and delete old ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nelbo.errors import InputError
from nelbo.files import beside, remove

KEEP_LAST = 2
KEPT = "keep"
"""A file in a checkpoint's folder that names what needs its weights, a line each."""
NAME = re.compile(r"step-\d{8,15}", re.ASCII)


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of this step."""
    return run / "checkpoints" / f"step-{step:08d}"


@contextmanager
def kept(folder: Path, why: str) -> Iterator[None]:
    """A context that makes what needs a checkpoint: it stays when the run is trained further, if the context ends well.

    Of a run that cannot be written nothing is noted.

    Args:
        folder: of the checkpoint.
        why: what needs it, a path.

    Raises:
        InputError: the checkpoint has been thinned out since it was read.
    """
    path = folder / KEPT
    line = os.fsencode(f"{why}\n")
    with suppress(OSError), path.open("ab") as file:
        file.write(line)
    if not folder.is_dir():
        raise InputError("RUN", f"was trained further, and {folder.name} is thinned out; do it again")
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.write_bytes(path.read_bytes().removesuffix(line))
            if not path.stat().st_size:
                path.unlink()
        raise


def needed_by(folder: Path) -> list[str]:
    """What needs a checkpoint, as it was given to :func:`kept`; the latest last."""
    try:
        found = (folder / KEPT).read_bytes()
    except OSError:
        return []
    return [os.fsdecode(line) for line in found.split(b"\n") if line]


def thin(run: Path) -> None:
    """Keep the last two checkpoints, older ones nearest to 1, 2, 4, 8, … times the first, and those of :func:`kept`."""
    folders = all_checkpoints(run)
    older, kept_step = folders[:-KEEP_LAST], 0
    for folder in older:
        if step_of(folder) >= 2 * kept_step:
            kept_step = step_of(folder)
        elif not (folder / KEPT).exists():
            with suppress(OSError):
                aside = beside(folder)  # renamed first, so that a folder with this name is always complete
                remove(aside)
                folder.replace(aside)
                remove(aside)


def all_checkpoints(run: Path) -> list[Path]:
    """Every complete checkpoint folder, oldest first."""
    folders = (p for p in (run / "checkpoints").glob("step-*") if NAME.fullmatch(p.name) and p.is_dir())
    return sorted(folders, key=step_of)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint in ``latest``, else the newest, else None."""
    try:
        named = run / "checkpoints" / Path((run / "checkpoints" / "latest").read_text().strip()).name
    except (OSError, UnicodeDecodeError):
        named = None
    if named is not None and NAME.fullmatch(named.name) and named.is_dir():
        return named
    return next(reversed(all_checkpoints(run)), None)


def damaged(path: Path, how: str) -> InputError:
    """The error for a damaged checkpoint."""
    others = [folder for folder in all_checkpoints(path.parents[2]) if folder != path.parent]
    fix = f"delete {path.parent.name} to fall back on {others[-1].name}" if others else "there is no other checkpoint"
    return InputError(str(path), f"{how}; {fix}")
