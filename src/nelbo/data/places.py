"""Where named sets are looked for, and where they are kept once downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nelbo.data.sources import Source, SourceFile
from nelbo.errors import InputError

VARIABLE = "NELBO_DATA"


@dataclass(frozen=True)
class Places:
    """Folders of data sets.

    Args:
        search: where to look, in order.
        store: where a download goes, in a folder of the set's name.
    """

    search: tuple[Path, ...]
    store: Path


def places(root: Path | None) -> Places:
    """The folders to use: ``root`` alone, or ``$NELBO_DATA`` and then the user's cache.

    Args:
        root: replaces both, for looking and for keeping.

    Returns:
        the places.

    Raises:
        InputError: ``root`` or ``$NELBO_DATA`` is not a folder.
    """
    if root is not None:
        check_folder(root, str(root))
        return Places((root,), root)
    from platformdirs import user_cache_dir

    cache = Path(user_cache_dir("nelbo")) / "data"
    named = os.environ.get(VARIABLE)
    if not named:
        return Places((cache,), cache)
    folder = Path(named).expanduser()
    check_folder(folder, VARIABLE)
    return Places((folder, cache), cache)


def check_folder(folder: Path, where: str) -> None:
    """Complain if a folder that the user named is none."""
    if folder.exists() and not folder.is_dir():
        raise InputError(where, f"{folder} is a file; give the folder that holds the data sets")
    if not folder.exists():
        raise InputError(where, f"there is no folder {folder}; create it or give another")


def is_own_folder(folder: Path, source: Source) -> bool:
    """Whether a folder bears the set's name, so that what lies there is meant to be that set."""
    return any(folder.parts[-len(parts) :] == parts for parts in (Path(name).parts for name in source.folders))


def candidates(source: Source, spots: Places) -> Iterator[Path]:
    """Every folder in which the set may lie."""
    for root in spots.search:
        yield from (root / folder for folder in source.folders)
        yield root


def find(source: Source, file: SourceFile, spots: Places) -> Path | None:
    """The first copy of a file, gzipped or not, under any of its usual names; None if there is none."""
    for folder in candidates(source, spots):
        for name in file.names:
            for suffix in ("", ".gz") if file.suffix else ("",):
                path = folder / f"{name}{suffix}"
                if is_file(path):
                    return path
    return None


def is_file(path: Path) -> bool:
    """Whether there is such a file; a folder that may not be entered is an InputError."""
    try:
        return path.is_file()
    except PermissionError:
        raise InputError(str(path.parent), "may not be entered: permission denied; change its permissions") from None
