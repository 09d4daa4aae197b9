"""The file of a codec: blocks with digests, which are found again when others are damaged.

    file   = MAGIC, version, block, …, block, trailer
    block  = tag (4 bytes), length of the payload (8), digest of tag, length and payload (16), payload
    trailer = place of the last block (8), digest of it (8), version (4), MAGIC

The last block is the index: the tag, place and length of every other block. Without it, because a file is cut off or a
byte has changed, the blocks are searched for. A digest is the beginning of a SHA-256. Integers are little-endian.

A length is compared with the file before anything is allocated. Nothing in a file is a pickle.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from nelbo.errors import InputError

MAGIC, VERSION = b"\x93nelbo\r\n", 1
HEADER, CHUNK, APART, TABLE, GOLDEN, INDEX = b"nbH\x1a", b"nbC\x1a", b"nbA\x1a", b"nbT\x1a", b"nbG\x1a", b"nbI\x1a"
TAGS = (HEADER, CHUNK, APART, TABLE, GOLDEN, INDEX)
MARK = b"nb"
START = struct.Struct("<8sI")
HEAD = struct.Struct("<4sQ16s")
TRAILER = struct.Struct("<Q8sI8s")
ENTRY = struct.Struct("<4sQQ")
AT_ONCE = 1 << 20
"""Bytes that are read at a time in the search for blocks."""
SEARCHED = 4
"""How often the bytes of a file are read in the search for blocks, at most."""


class DamagedBlockError(ValueError):
    """A block is not what was written."""


class Block(NamedTuple):
    """A block of a file.

    Attributes:
        tag: what it is.
        place: of its head in the file, in bytes.
        length: of its payload, in bytes.
    """

    tag: bytes
    place: int
    length: int

    @property
    def end(self) -> int:
        """The place after its payload."""
        return self.place + HEAD.size + self.length


def digest(*parts: bytes) -> bytes:
    """The first 16 bytes of the SHA-256 of these bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()[:16]


def is_container(path: Path) -> bool:
    """Whether a file begins or ends with the magic bytes."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        file.seek(-min(len(MAGIC), os.fstat(file.fileno()).st_size), os.SEEK_END)
        return MAGIC in (start, file.read())


class Writer:
    """Writes blocks, and at last the index.

    Args:
        file: an empty file that is open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.blocks: list[Block] = []
        self.file.write(START.pack(MAGIC, VERSION))
        self.place = START.size

    def add(self, tag: bytes, payload: bytes) -> int:
        """Write a block; returns the bytes that it takes.

        Raises:
            OSError: the disk is full, or another error of it.
        """
        length = struct.pack("<Q", len(payload))
        self.file.write(HEAD.pack(tag, len(payload), digest(tag, length, payload)))
        self.file.write(payload)
        self.blocks.append(Block(tag, self.place, len(payload)))
        self.place = self.blocks[-1].end
        return HEAD.size + len(payload)

    def finish(self) -> int:
        """Write the index and the trailer; returns the bytes of the whole file."""
        entries = b"".join(ENTRY.pack(*block) for block in self.blocks)
        place = self.place
        self.add(INDEX, entries)
        self.file.write(TRAILER.pack(place, digest(entries)[:8], VERSION, MAGIC))
        return self.place + TRAILER.size


class Container:
    """The blocks of a file.

    Args:
        path: the file.

    Attributes:
        blocks: all blocks but the index that can be found.
        size: bytes of the file.
        left: bytes that a search may still read.
        problems: what is wrong with the file as a whole, as ends of sentences.

    Raises:
        InputError: it is not such a file, or of a later version.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, list[str]()
        self.file: BinaryIO = path.open("rb")
        self.size = os.fstat(self.file.fileno()).st_size
        self.left = SEARCHED * (self.size + AT_ONCE)
        try:
            last = self._check_ends()
            indexed = None if last is None else self._indexed(last)
            if indexed is None and not self.problems:
                self.problems.append("its index is damaged")
            self.blocks = [*self._found()] if indexed is None else indexed
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, block: Block) -> bytes:
        """The payload of a block.

        Raises:
            DamagedBlockError: it differs from what was written.
        """
        head = self._bytes(block.place, HEAD.size)
        payload = self._bytes(block.place + HEAD.size, block.length)
        said = HEAD.pack(block.tag, block.length, digest(block.tag, struct.pack("<Q", block.length), payload))
        if head != said:
            raise DamagedBlockError(f"the block at byte {block.place} is damaged")
        return payload

    def of(self, tag: bytes) -> list[Block]:
        """All blocks with this tag, in their order."""
        return [block for block in self.blocks if block.tag == tag]

    def first(self, tag: bytes) -> bytes | None:
        """The payload of the first block with this tag that is not damaged; None if there is none."""
        for block in self.of(tag):
            try:
                return self.read(block)
            except DamagedBlockError:
                continue
        return None

    def _bytes(self, place: int, length: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        if place < 0 or length < 0 or place + length > self.size:
            return b""
        self.file.seek(place)
        return self.file.read(length)

    def _check_ends(self) -> tuple[int, bytes] | None:
        """Magic and version at both ends. Returns the place of the index and its digest, or None without a trailer."""
        start, trailer = self._bytes(0, START.size), self._bytes(self.size - TRAILER.size, TRAILER.size)
        front = START.unpack(start) if start else (b"", 0)
        back = TRAILER.unpack(trailer) if trailer else (0, b"", 0, b"")
        known = [version for version, magic in ((front[1], front[0]), (back[2], back[3])) if magic == MAGIC]
        if not known:
            raise InputError(str(self.path), "is not a file of 'nelbo compress'")
        if min(known) > VERSION:
            made = f"is of version {min(known)} of the format, and this nelbo reads up to version {VERSION}"
            raise InputError(str(self.path), f"{made}; update nelbo")
        if front != (MAGIC, VERSION):
            self.problems.append("its first bytes are damaged")
        if back[2:] != (VERSION, MAGIC):
            self.problems.append("it is cut off, or its last bytes are damaged")
            return None
        return back[0], back[1]

    def _indexed(self, last: tuple[int, bytes]) -> list[Block] | None:
        """The blocks that the index names, or None if it is damaged."""
        place, expected = last
        length = self.size - TRAILER.size - HEAD.size - place
        entries = self._bytes(place + HEAD.size, length)
        if length % ENTRY.size or len(entries) != length or digest(entries)[:8] != expected:
            return None
        blocks = [Block(*entry) for entry in ENTRY.iter_unpack(entries)]
        starts = [START.size, *(block.end for block in blocks)]
        ordered = (
            all(start <= block.place for start, block in zip(starts, blocks, strict=False)) and starts[-1] <= place
        )
        return blocks if ordered and all(block.tag in TAGS for block in blocks) else None

    def _found(self) -> Iterator[Block]:
        """The blocks that a search finds: one after the other, and after a damaged one wherever the next one begins.

        It gives up after it has read ``SEARCHED`` times the file, which only a forged file needs.
        """
        place = START.size
        while (block := self._at(place) or self._after(place)) is not None:
            if block.tag != INDEX:
                yield block
            place = block.end

    def _at(self, place: int) -> Block | None:
        """The block at this place, if there is a whole one."""
        head = self._bytes(place, HEAD.size)
        if head[:4] not in TAGS:
            return None
        tag, length, _ = HEAD.unpack(head)
        block = Block(tag, place, length)
        self.left -= HEAD.size
        if block.end > self.size or length > self.left:
            return None
        self.left -= length
        try:
            self.read(block)
        except DamagedBlockError:
            return None
        return block

    def _after(self, place: int) -> Block | None:
        """The first whole block that begins after this place."""
        while place < self.size and self.left > 0:
            piece = self._bytes(place, min(AT_ONCE, self.size - place))
            at = piece.find(MARK, 1)
            while at > 0 and self.left > 0:
                if (block := self._at(place + at)) is not None:
                    return block
                at = piece.find(MARK, at + 1)
            place += max(1, len(piece) - len(MARK))
        return None
