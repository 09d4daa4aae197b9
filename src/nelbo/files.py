"""Files and folders that are complete or not there at all, and errors that name them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nelbo.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

WRITING = ".writing-"
"""What the name of a file begins with before it is there."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file or a folder, which is moved there at the end: all of it is seen, or none.

    Args:
        path: where it goes; its folder is made if need be. A file that is there is replaced, a folder is not.

    Yields:
        The place, with the same suffix. Nothing is left of it when writing fails.

    Raises:
        OSError: it cannot be written; it names ``path``.
    """
    aside = beside(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(aside)
        try:
            yield aside
            if aside.is_file():
                with aside.open("rb+") as file:
                    os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            remove(aside)
            raise
        sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors name what the user knows: a full disk is said without a name, or with that of the place beside."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(beside(path))):
            error.filename = str(path)
        raise


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Be the only process in here with this folder; the system forgets it when the process ends, however it ends.

    Raises:
        InputError: another process is. Where the system has no such locks (Windows, some network disks), none.
    """
    descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(str(folder), "another process is training in it; wait for it, or stop it") from None
    except OSError:
        pass
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def beside(path: Path) -> Path:
    """Where ``path`` is written before it is there."""
    return path.with_name(f"{WRITING}{path.name}")


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but what a process that was killed may have left of :func:`atomic_write`."""
    return all(path.name.startswith(WRITING) for path in folder.iterdir())


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and force it to disk."""
    with naming(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write or replace a text file in one move."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
