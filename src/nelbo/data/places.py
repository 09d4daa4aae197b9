"""The folders of named sets, for reading and for downloads."""

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
        store: where a download goes, in a folder with the set's name.
    """

    search: tuple[Path, ...]
    store: Path


def places(root: Path | None) -> Places:
    """The folders to use: ``root`` alone, or ``$NELBO_DATA`` and then the user's cache.

    Args:
        root: replaces both, for reading and for downloads.

    Returns:
        the folders.

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
    """Check that a folder given by the user exists."""
    if folder.exists() and not folder.is_dir():
        raise InputError(where, f"{folder} is a file; use the folder of the data sets")
    if not folder.exists():
        raise InputError(where, f"the folder {folder} does not exist; create it or use another")


def is_own_folder(folder: Path, source: Source) -> bool:
    """Whether a folder has the set's name, so that its files are meant to be that set."""
    return any(folder.parts[-len(parts) :] == parts for parts in (Path(name).parts for name in source.folders))


def candidates(source: Source, spots: Places) -> Iterator[Path]:
    """Every folder that may contain the set."""
    for root in spots.search:
        yield from (root / folder for folder in source.folders)
        yield root


def find(source: Source, file: SourceFile, spots: Places) -> Path | None:
    """The first copy of a file, gzipped or not, under any of its usual names, or None."""
    for folder in candidates(source, spots):
        for name in file.names:
            for suffix in ("", ".gz") if file.suffix else ("",):
                path = folder / f"{name}{suffix}"
                if is_file(path):
                    return path
    return None


def is_file(path: Path) -> bool:
    """Whether the file exists; an InputError if the folder's permissions do not allow the check."""
    try:
        return path.is_file()
    except PermissionError:
        raise InputError(str(path.parent), "cannot be entered: permission denied; change its permissions") from None
