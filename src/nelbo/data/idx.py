"""The IDX format of MNIST: two zero bytes, a type, the number of axes, their lengths (big-endian), the values."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from nelbo.data.raw import Pixels
from nelbo.errors import InputError

CHUNK = 1 << 20
UBYTE = 0x08


@dataclass(frozen=True, eq=False)
class Idx:
    """The contents of an IDX file.

    Args:
        values: uint8, of the shape in the header.
        md5: of its decompressed contents.
        gzipped: whether the file was compressed.
    """

    values: Pixels
    md5: str
    gzipped: bool


def is_gzip(path: Path) -> bool:
    """Whether the file begins like gzip, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file that may be gzipped; every read error becomes an InputError with its path."""
    try:
        opener = gzip.open if is_gzip(path) else open
        with opener(path, "rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(str(path), f"is truncated or corrupt ({error}); download it again") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror or error}") from None


def read_at_most(stream: BinaryIO, limit: int) -> bytearray:
    """Read up to ``limit`` bytes; memory grows with the data, not with a claimed size."""
    found = bytearray()
    while len(found) < limit:
        piece = stream.read(min(CHUNK, limit - len(found)))
        if not piece:
            break
        found += piece
    return found


def read_idx(path: Path) -> Idx:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file.

    Returns:
        its values and the MD5 of its decompressed contents.

    Raises:
        InputError: it is not an IDX file of bytes, or its length differs from its header's.
    """
    where = str(path)
    with decompressed(path) as stream:
        header = stream.read(4)
        if len(header) < 4 or header[:2] != b"\0\0" or not 1 <= header[3] <= 4:
            raise InputError(where, "is not an IDX file of 1 to 4 axes, such as t10k-images-idx3-ubyte")
        if header[2] != UBYTE:
            raise InputError(
                where, f"has IDX type 0x{header[2]:02x}, but only unsigned bytes (0x08) are supported; convert it"
            )
        lengths = stream.read(4 * header[3])
        if len(lengths) < 4 * header[3]:
            raise InputError(where, "is truncated within its header; download it again")
        shape = tuple(int(length) for length in np.frombuffer(lengths, dtype=">u4"))
        expected = math.prod(shape)
        if expected == 0:
            raise InputError(where, "has an axis of length 0; use a file with images")
        body = read_at_most(stream, expected + 1)
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        stated = " x ".join(map(str, shape))
        raise InputError(where, f"is damaged: its header states {stated} bytes, but it has {found}; download it again")
    md5 = hashlib.md5(header + lengths, usedforsecurity=False)
    md5.update(body)
    return Idx(np.frombuffer(body, dtype=np.uint8).reshape(shape), md5.hexdigest(), is_gzip(path))


def md5_of(path: Path, *, contents: bool) -> str:
    """The MD5 of a file's bytes, or of its decompressed contents."""
    digest = hashlib.md5(usedforsecurity=False)
    if contents:
        with decompressed(path) as stream:
            while piece := stream.read(CHUNK):
                digest.update(piece)
    else:
        with path.open("rb") as stream:
            while piece := stream.read(CHUNK):
                digest.update(piece)
    return digest.hexdigest()
