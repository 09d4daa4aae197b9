"""One chunk of a file: consecutive images, by a coder or by none, with a digest of their pixels.

Of a :class:`~nelbo.codec.coder.Coder` the first images of a chunk are coded without a model. Their bytes are the words
that are on the stack at first, so that almost no bits are only there to sample latents (Townsend et al. 2019 begin with
random bits). They are masked by a fixed stream of random numbers, because the headers of such bytes are not random.

    payload = kind, first image, n, plain images, bytes of these, digest of all levels; then the words or bytes
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from nelbo.codec.coder import Coder, EachCoder, Images, OutOfWordsError, Words
from nelbo.codec.container import digest
from nelbo.codec.fallback import decode_plain, encode_plain, pack, plain_codes, unpack
from nelbo.options import Shape

HEAD = struct.Struct("<cQIIQ16s")
PLAIN, CHAIN, EACH = b"P", b"S", b"E"
MOST_IMAGES = 1 << 16
"""Images of a chunk; a forged one could claim any number of them."""
AT_ONCE = 64
"""The least number of images between two reports of progress."""
Step = Callable[[int], object]
"""Is told how many images were coded since the last call."""


class DamagedChunkError(ValueError):
    """A chunk does not give back the images that it was made of."""


class Head(NamedTuple):
    """The head of a chunk.

    Attributes:
        kind: ``PLAIN``, ``CHAIN`` or ``EACH``.
        first: the number of its first image among all images of the file that have levels.
        n: the number of its images.
        plain: the number of its first images that are coded without a model.
        size: of a chain: the bytes of the plain images; of an ``EACH``: those of the lengths.
        pixels: the digest of its levels.
    """

    kind: bytes
    first: int
    n: int
    plain: int
    size: int
    pixels: bytes

    @property
    def rows(self) -> range:
        """Its images."""
        return range(self.first, self.first + self.n)


def head_of(payload: bytes) -> Head:
    """The head of a chunk.

    Raises:
        DamagedChunkError: there is none.
    """
    if len(payload) < HEAD.size:
        raise DamagedChunkError("its head is cut off")
    head = Head(*HEAD.unpack_from(payload))
    if head.kind not in (PLAIN, CHAIN, EACH) or not 0 <= head.plain <= head.n:
        raise DamagedChunkError("its head is not that of a chunk")
    return head


def masked(data: bytes) -> bytes:
    """The bytes xor a fixed stream of random ones; twice, it gives back the bytes."""
    stream = np.random.Generator(np.random.Philox(0)).bytes(len(data))
    return bytes(np.frombuffer(data, np.uint8) ^ np.frombuffer(stream, np.uint8))


def pixels_of(images: Images) -> bytes:
    """The digest of levels."""
    return digest(repr(images.shape).encode(), np.ascontiguousarray(images).tobytes())


def plain_chunk(images: Images, first: int) -> bytes:
    """A chunk without a model, by the method that is shortest of those that give back the images.

    Raises:
        DamagedChunkError: none does.
    """
    head = HEAD.pack(*Head(PLAIN, first, len(images), len(images), 0, pixels_of(images)))
    for code in plain_codes(images):
        with suppress(DamagedChunkError):
            decode_chunk(head + code, images.shape[1:], None)
            return head + code
    raise DamagedChunkError("no method gives back the images")


def each_chunk(coder: EachCoder, images: Images, first: int, step: Step = id) -> bytes:
    """A chunk of images that can be decoded alone."""
    codes: list[bytes] = []
    for some in groups(len(images), coder.in_flight):
        codes += coder.encode_each(images[some.start : some.stop])
        step(len(some))
    lengths = pack(np.array([len(code) for code in codes], "<u4").view(np.uint8).reshape(-1, 4).T.tobytes())
    head = Head(EACH, first, len(images), 0, len(lengths), pixels_of(images))
    return b"".join([HEAD.pack(*head), lengths, *codes])


def chain_chunk(coder: Coder, images: Images, first: int, step: Step = id) -> bytes:
    """A chunk of images on one stack, or without a model if that is shorter."""
    needed = coder.initial_words()
    while True:
        plain, data = enough_plain(images, 4 * needed)
        if plain == len(images):
            return plain_chunk(images, first)
        try:
            words = on_stack(coder, images[plain:], to_words(data, needed), step)
            break
        except OutOfWordsError:
            needed *= 2
    head = Head(CHAIN, first, len(images), plain, len(data), pixels_of(images))
    return HEAD.pack(*head) + words.astype("<u4").tobytes()


def on_stack(coder: Coder, images: Images, words: Words, step: Step) -> Words:
    """The stack with the images on it, group by group."""
    for some in groups(len(images), coder.in_flight):
        words = coder.encode(images[some.start : some.stop], words)
        step(len(some))
    return words


def enough_plain(images: Images, size: int) -> tuple[int, bytes]:
    """The first images, and their bytes without a model, which are at least this number; all images if they are not."""
    count = 1 if size else 0
    while size:
        data = encode_plain(images[:count])
        if len(data) >= size or count == len(images):
            return count, data
        count = min(len(images), max(count + 1, int(1.05 * count * size / len(data))))
    return 0, b""


def to_words(data: bytes, least: int) -> Words:
    """Bytes as masked words, at least this number of them."""
    filled = data.ljust(4 * max(least, -(-len(data) // 4)), b"\0")
    return np.frombuffer(masked(filled), "<u4").astype(np.uint32)


def groups(count: int, in_flight: int) -> list[range]:
    """Consecutive images that are coded at a time."""
    size = in_flight * -(-AT_ONCE // in_flight)
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def decode_chunk(payload: bytes, shape: Shape, coder: Coder | EachCoder | None, step: Step = id) -> Images:
    """The images of a chunk.

    Args:
        payload: the chunk.
        shape: (C, H, W).
        coder: of the model; None for a chunk without one.
        step: is told of progress.

    Returns:
        Levels, shape (n, C, H, W).

    Raises:
        DamagedChunkError: the images are not those that the chunk was made of.
    """
    head = head_of(payload)
    try:
        images = CODECS[head.kind](payload[HEAD.size :], head, shape, coder, step)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # damaged words can cause any exception, a panic of the entropy coder among them
        raise DamagedChunkError(f"{type(error).__name__}: {error}") from None
    if images.shape != (head.n, *shape) or pixels_of(images) != head.pixels:
        raise DamagedChunkError("other pixels than before")
    return images


def decode_plain_chunk(data: bytes, head: Head, shape: Shape, coder: object, step: Step) -> Images:
    """The images of a chunk without a model."""
    return decode_plain(data, (head.n, *shape))


def decode_chain(data: bytes, head: Head, shape: Shape, coder: Coder, step: Step) -> Images:
    """The images of a chunk on one stack, the last ones first."""
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    found: list[Images] = []
    for some in reversed(groups(head.n - head.plain, coder.in_flight)):
        images, words = coder.decode(words, len(some))
        found.insert(0, images)
        step(len(some))
    if head.size > 4 * len(words):
        raise ValueError("too few initial words")
    if head.plain:
        plain = masked(words.astype("<u4").tobytes())[: head.size]
        found.insert(0, decode_plain(plain, (head.plain, *shape)))
    return np.concatenate(found)


def lengths_of(data: bytes, head: Head) -> np.ndarray:
    """The bytes of each image, shape (n,)."""
    planes = np.frombuffer(unpack(data[: head.size], 4 * head.n), np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<u4")[:, 0].astype(np.int64)


def decode_each_chunk(data: bytes, head: Head, shape: Shape, coder: EachCoder, step: Step) -> Images:
    """The images of a chunk of single images."""
    ends = head.size + np.cumsum(lengths_of(data, head))
    starts = [head.size, *ends[:-1].tolist()]
    codes = [data[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
    if len(data) != (codes and ends[-1]):
        raise ValueError("another number of bytes")
    found = []
    for some in groups(head.n, coder.in_flight):
        found.append(coder.decode_each(codes[some.start : some.stop]))
        step(len(some))
    return np.concatenate(found)


CODECS: dict[bytes, Callable[..., Images]] = {
    PLAIN: decode_plain_chunk,
    CHAIN: decode_chain,
    EACH: decode_each_chunk,
}
