"""CIFAR-10's binary version: six files of records, a label byte and then the red, green and blue planes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nelbo.data.idx import md5_of
from nelbo.data.places import Places, candidates, is_file
from nelbo.data.raw import Part
from nelbo.data.sources import Source
from nelbo.errors import InputError

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"


def read_cifar(source: Source, spots: Places, archive: Callable[[], Path]) -> tuple[dict[str, Part], list[str]]:
    """Read the set.

    Args:
        source: the expected files.
        spots: folders that may contain extracted files.
        archive: gives the path of the archive, if there are no extracted files.

    Returns:
        ``train`` and ``test``, and notes.

    Raises:
        InputError: the archive's digest, or a file's size or labels, are wrong.
    """
    folder = extracted(source, spots)
    if folder is not None:
        files = {name: read_file(folder / name, sizes(source)[name]) for name in (*TRAIN, TEST)}
        where = {name: str(folder / name) for name in files}
        notes = [f"{folder}: sizes and labels checked, contents not (the published checksum is the archive's)"]
    else:
        path = archive()
        files, notes = read_archive(path, source), []
        where = {name: f"{path} ({name})" for name in files}
    batches = {name: records(data, source, where[name]) for name, data in files.items()}
    train = [batches[name] for name in TRAIN]
    return {"train": join(train), "test": batches[TEST]}, notes


def sizes(source: Source) -> Mapping[str, int]:
    """The size of each of the six files, in bytes."""
    record = 1 + int(np.prod(source.shape))
    return {**dict.fromkeys(TRAIN, source.train // len(TRAIN) * record), TEST: source.test * record}


def extracted(source: Source, spots: Places) -> Path | None:
    """The first folder that has all six files."""
    for folder in candidates(source, spots):
        if all(is_file(folder / name) for name in (*TRAIN, TEST)):
            return folder
    return None


def read_file(path: Path, size: int) -> bytes:
    """The contents of one extracted file, after a check of its size."""
    try:
        found = path.stat().st_size
        if found != size:
            raise InputError(str(path), f"has {found} bytes, not {size}; extract the archive again")
        return path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror or error}") from None


def read_archive(path: Path, source: Source) -> dict[str, bytes]:
    """The six files, read from the archive without extraction; other members are ignored."""
    file = source.files[0]
    found = md5_of(path, contents=False)
    if found != file.md5:
        fix = "remove it to download it again, or get the published archive"
        raise InputError(str(path), f"is not the archive of {source.name}: MD5 {found}, not {file.md5}; {fix}")
    wanted = sizes(source)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isreg() and wanted.get(name) == member.size:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    files[name] = stream.read(member.size)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(str(path), f"is damaged ({error}); download it again") from None
    missing = [name for name in wanted if name not in files]
    if missing:
        raise InputError(str(path), f"lacks {', '.join(missing)} of the right size; get the published archive")
    return files


def records(data: bytes, source: Source, where: str) -> Part:
    """The labels and images of one file."""
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 1 + int(np.prod(source.shape)))
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= len(source.classes):
        raise InputError(where, f"has a label {labels.max()} beyond {len(source.classes)} classes; download it again")
    return Part(rows[:, 1:].reshape(-1, *source.shape), labels)


def join(parts: list[Part]) -> Part:
    """Several labelled parts as one."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Part(np.concatenate([part.images for part in parts]), np.concatenate(labels))
