"""A compressed file: its header, its table of names and labels, and its chunks, on a :mod:`~nelbo.codec.container`.

The header is written twice, at the beginning and near the end, so that no single damaged byte makes all images
unreadable. The table comes after the chunks: a file whose end is cut off has images without names.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nelbo.codec import chunks
from nelbo.codec.apart import ApartHead
from nelbo.codec.apart import head_of as apart_head_of
from nelbo.codec.chunks import DamagedChunkError, Head
from nelbo.codec.container import APART, CHUNK, GOLDEN, HEADER, TABLE, Block, Container, DamagedBlockError, Writer
from nelbo.codec.fallback import pack, unpack, unpack_most
from nelbo.codec.kinds import Kind
from nelbo.errors import InputError
from nelbo.limits import memory
from nelbo.options import Shape

LENGTH = struct.Struct("<Q")
GOLDEN_SCALE, MOST_GOLDEN = 2.0**40, 1 << 24
"""Golden numbers are multiples of 2⁻⁴⁰, a tenth of what they are compared with; the most bytes of all of them."""
MOST_IMAGES = 1 << 24
"""Images of a file."""
MOST_JSON = 1 << 26
"""Bytes of a part that is JSON."""
M = TypeVar("M", bound="Stored")


class Stored(BaseModel):
    """A part of a file that is JSON. Fields of a later nelbo are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """The fields that were set, by xz, after their length; raises as :meth:`text`."""
        text = self.text()
        return LENGTH.pack(len(text)) + pack(text)

    def text(self) -> bytes:
        """The fields that were set, as JSON.

        Raises:
            InputError: they are longer than is ever read.
        """
        text = json.dumps(self.model_dump(exclude_unset=True), separators=(",", ":")).encode()
        if len(text) > MOST_JSON:
            raise InputError("images", f"have names and labels of more than {MOST_JSON:,} bytes; make several files")
        return text

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The part of :meth:`to_bytes`.

        Raises:
            ValueError: it is damaged.
        """
        length = LENGTH.unpack(data[: LENGTH.size].ljust(LENGTH.size, b"\0"))[0]
        if length > MOST_JSON:
            raise ValueError(f"claims more than {MOST_JSON:,} bytes")
        try:
            return cls.model_validate(json.loads(unpack(data[LENGTH.size :], length)))
        except RecursionError:
            raise ValueError("too deep") from None


class Header(Stored):
    """What is needed to decode."""

    nelbo: str
    "The version that made the file."
    family: str
    "The family of the run."
    weights: Literal["ema", "raw"]
    "Which weights."
    weights_sha256: str
    "Hash of the weights."
    model_sha256: str
    "Hash of the settings that the weights depend on."
    step: int
    "The step of the checkpoint."
    shape: Shape
    "(C, H, W) of the images with levels."
    levels: int = Field(ge=2, le=256)
    "The number of values a pixel can take."
    count: int = Field(ge=0)
    "The number of images with levels."
    apart: int = Field(ge=0)
    "The number of other images."
    coder: dict[str, Any]
    "The settings of the coder."

    @property
    def total(self) -> int:
        """The number of all images."""
        return self.count + self.apart


class Table(Stored):
    """Names, kinds and labels, and what was measured when the file was made."""

    names: list[str] | None = None
    "The names of the images; None for an array."
    kinds: list[Kind] = []
    "The kinds of the images of files."
    runs: list[tuple[int, int]] = []
    "(place in kinds, or −1 for an image apart; number of consecutive images)."
    data: str | None = None
    "The name of the data; None for files."
    split: str | None = None
    "Their split."
    labels: list[int] | None = None
    "The label of each image."
    classes: list[str] = []
    "The names of the labels."
    facts: dict[str, Any] = {}
    "What was measured."

    @model_validator(mode="after")
    def _alike(self) -> Self:
        """Places and labels that exist."""
        if any(not -1 <= kind < len(self.kinds) or count < 1 for kind, count in self.runs):
            raise ValueError("a kind that does not exist")
        if self.labels is not None and not all(0 <= label < len(self.classes) for label in self.labels):
            raise ValueError("a label that does not exist")
        return self

    def fits(self, header: Header) -> bool:
        """Whether it is a table of the images of this header."""
        counts = [len(each) for each in (self.names, self.labels) if each is not None]
        with_levels = sum(count for kind, count in self.runs if kind >= 0)
        counts += [sum(count for _, count in self.runs)] if self.runs else []
        return all(count == header.total for count in counts) and (not self.runs or with_levels == header.count)


def golden_bytes(golden: np.ndarray) -> bytes:
    """Numbers as multiples of 2⁻⁴⁰, by xz, the same byte of all together."""
    counts = np.rint(golden * GOLDEN_SCALE).astype("<i8")
    return pack(counts.view(np.uint8).reshape(-1, 8).T.tobytes())


def golden_of(data: bytes | None) -> np.ndarray | None:
    """The numbers of :func:`golden_bytes`; None if there are none."""
    try:
        planes = np.frombuffer(unpack_most(data or b"", MOST_GOLDEN), np.uint8).reshape(8, -1)
    except ValueError:
        return None
    return np.ascontiguousarray(planes.T).view("<i8")[:, 0] / GOLDEN_SCALE


class ArchiveWriter:
    """Writes a compressed file, and counts the bytes of its parts.

    Args:
        file: an empty file that is open for writing.
        header: the header.
        golden: the laws' parameters of fixed inputs.
    """

    def __init__(self, file: BinaryIO, header: Header, golden: np.ndarray) -> None:
        self.writer, self.header = Writer(file), header
        self.bytes: dict[str, int] = {}
        self._add("header", HEADER, header.to_bytes())
        self._add("golden", GOLDEN, golden_bytes(golden))

    def chunk(self, payload: bytes) -> None:
        """Write a chunk of images."""
        self._add("images", CHUNK, payload)

    def apart(self, payload: bytes) -> None:
        """Write an image apart."""
        self._add("apart", APART, payload)

    def finish(self, table: Table) -> None:
        """Write the table, the header again, and the index."""
        self._add("table", TABLE, table.to_bytes())
        self._add("header", HEADER, self.header.to_bytes())
        self.bytes["index"] = self.writer.finish() - sum(self.bytes.values())

    def _add(self, name: str, tag: bytes, payload: bytes) -> None:
        self.bytes[name] = self.bytes.get(name, 0) + self.writer.add(tag, payload)


class Archive:
    """A compressed file that is read.

    Args:
        path: the file.

    Attributes:
        header: its header.
        table: its table; an empty one if it is damaged.
        unnamed: whether the table is damaged.
        golden: the laws' parameters of fixed inputs; None if they are damaged.
        problems: what is damaged, as ends of sentences.

    Raises:
        InputError: it is not such a file, or its header is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = Container(path)
        try:
            self.problems = list(self.container.problems)
            self.header = self._header()
            found = self._part(TABLE, Table)
            self.table = Table() if found is None or not found.fits(self.header) else found
            self.unnamed = self.table is not found
            if self.unnamed:
                self.problems.append("its table of names and labels is damaged")
            self.golden = golden_of(self.container.first(GOLDEN))
            if self.golden is None:
                self.problems.append("its golden vectors are damaged")
        except BaseException:
            self.container.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.file.close()

    def chunks(self) -> list[tuple[Head, Block]]:
        """The heads of the chunks that are whole, and their blocks."""
        found = []
        for block in self.container.of(CHUNK):
            try:
                head = chunks.head_of(self.container.read(block))
            except (DamagedBlockError, DamagedChunkError):
                continue
            if head.rows.stop <= self.header.count and head.n <= chunks.MOST_IMAGES:
                found.append((head, block))
        return found

    def apart(self) -> list[tuple[ApartHead, Block]]:
        """The heads of the images apart that are whole, one for each number, and their blocks."""
        found: dict[int, tuple[ApartHead, Block]] = {}
        for block in self.container.of(APART):
            try:
                head, _ = apart_head_of(self.container.read(block))
            except ValueError:
                continue
            if head.item < self.header.total:
                found[head.item] = head, block
        return list(found.values())

    def _header(self) -> Header:
        """The first header that is whole.

        Raises:
            InputError: none is, or it claims more images than there is memory.
        """
        header = self._part(HEADER, Header)
        where = str(self.path)
        if header is None:
            raise InputError(where, "both copies of its header are damaged or missing, so no image can be decoded")
        size = header.count * math.prod(header.shape)
        too_many = header.total > MOST_IMAGES or size > memory() or header.apart > self.container.size
        if min(header.shape) < 1 or too_many:
            raise InputError(where, f"claims {header.total:,} images, which do not fit into memory; it is damaged")
        return header

    def _part(self, tag: bytes, kind: type[M]) -> M | None:
        """The first part of this kind that is whole."""
        for block in self.container.of(tag):
            try:
                return kind.from_bytes(self.container.read(block))
            except (DamagedBlockError, ValidationError, ValueError):
                continue
        return None
