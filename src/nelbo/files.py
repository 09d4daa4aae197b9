"""Files and folders that are either complete or absent, and errors that name them."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nelbo.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

LOCKS = Path("/proc/locks")
WRITING = ".writing-"
"""Prefix of a file's name while it is written."""


@contextmanager
def atomic_write(path: Path, new: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` for a file or a folder, which is renamed to ``path`` when complete.

    The path is of this thread alone. Those that killed processes have left are removed.

    Args:
        path: the final path; its folder is made if needed. An existing file is replaced, an existing folder is not.
        new: whether a file is not replaced either: one that has appeared meanwhile, because the caller has looked.

    Yields:
        The temporary path, with the same suffix. It is removed if writing fails.

    Raises:
        OSError: the path cannot be written; the error names ``path``.
        InputError: the path is ``new``, and exists.
    """
    aside = beside(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in [aside, *abandoned(path)]:
            remove(left)
        try:
            yield aside
            if aside.is_file():
                with aside.open("rb+") as file:
                    os.fsync(file.fileno())
            if new and path.exists():
                raise InputError(str(path), "was made by another process meanwhile; choose another path")
            aside.replace(path)
        except BaseException:
            remove(aside)
            raise
        sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors name ``path``: a full disk has no file name, and a temporary path is unknown to the user."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(beside(path))):
            error.filename = str(path)
        raise


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; the lock ends with the process.

    Raises:
        InputError: another process has the lock. Systems without locks (Windows, some network disks) never raise.
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


def lock_holder(folder: Path) -> int | None:
    """The process that has the lock of :func:`sole` on a folder, by its number, as Linux lists it.

    Returns:
        The number of the process; 0 if there is one, but the system does not tell its number; None if there is none.
        Other systems than Linux do not list locks: None.
    """
    try:
        inode, lines = folder.stat().st_ino, LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[3] == "WRITE" and words[5].endswith(f":{inode}"):
            return max(0, int(words[4]))
    return None


def beside(path: Path) -> Path:
    """The temporary path of this thread for ``path``."""
    return path.with_name(f"{WRITING}{os.getpid()}.{threading.get_native_id()}-{path.name}")


def abandoned(path: Path) -> list[Path]:
    """The temporary paths for ``path`` of processes that have ended."""
    form = re.compile(rf"{re.escape(WRITING)}(\d+)\.\d+-{re.escape(path.name)}")
    found = [(form.fullmatch(name), name) for name in os.listdir(path.parent)]
    return [path.with_name(name) for match, name in found if match and not is_alive(int(match[1]))]


def is_alive(process: int) -> bool:
    """Whether there is a process of this number; where that cannot be asked, True."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def is_empty(folder: Path) -> bool:
    """Whether a folder is empty, apart from temporary files of :func:`atomic_write` after a kill."""
    return all(path.name.startswith(WRITING) for path in folder.iterdir())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    with naming(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write or replace a text file atomically."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sync_folder(path: Path) -> None:
    """Sync a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
