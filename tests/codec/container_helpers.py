"""A coder without a model, and small files that it makes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from nelbo.codec.apart import encode_apart
from nelbo.codec.archive import ArchiveWriter, Header, Table
from nelbo.codec.chunks import chain_chunk, each_chunk, plain_chunk
from nelbo.codec.kinds import Kind
from nelbo.codec.stack import OutOfWordsError, Words

SHAPE, LEVELS = (1, 4, 4), 17
LATENT = 3
"""Words that an image takes off the stack first, as if they were a latent."""


class Levels:
    """Levels as they are, four to a word, after words that it takes off the stack and puts back."""

    in_flight = 2

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"kind": "levels"}

    def golden(self) -> np.ndarray:
        """Some numbers."""
        return np.linspace(-1, 1, 5)

    def initial_words(self) -> int:
        """Of one image."""
        return LATENT

    def encode(self, images: np.ndarray, words: Words) -> Words:
        """The stack with the images."""
        for image in images:
            if len(words) < LATENT:
                raise OutOfWordsError(len(words))
            latent, rest = words[-LATENT:], words[:-LATENT]
            words = np.concatenate([rest, image.reshape(-1).view("<u4"), latent ^ np.uint32(0x5A)])
        return words

    def decode(self, words: Words, count: int) -> tuple[np.ndarray, Words]:
        """The images, and the stack before them."""
        found: list[np.ndarray] = []
        size = int(np.prod(SHAPE)) // 4
        for _ in range(count):
            latent, body = words[-LATENT:], words[-LATENT - size : -LATENT]
            words = np.concatenate([words[: -LATENT - size], latent ^ np.uint32(0x5A)])
            found.insert(0, body.astype("<u4").view(np.uint8).reshape(SHAPE))
        return np.array(found, np.uint8).reshape(-1, *SHAPE), words

    def encode_each(self, images: np.ndarray) -> list[bytes]:
        """Bytes of different lengths."""
        return [image.tobytes() + bytes(k % 3) for k, image in enumerate(images)]

    def decode_each(self, codes: list[bytes]) -> np.ndarray:
        """The images."""
        return np.array([np.frombuffer(code[:16], np.uint8).reshape(SHAPE) for code in codes]).reshape(-1, *SHAPE)


def some_images(n: int, seed: int = 0) -> np.ndarray:
    """Levels with some structure, shape (n, 1, 4, 4)."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 5, (n, *SHAPE)) + random.integers(0, 12, (n, 1, 1, 1))).astype(np.uint8)


def header(count: int, apart: int = 0) -> Header:
    """A header of these images."""
    return Header(
        nelbo="0",
        family="vae",
        weights="ema",
        weights_sha256="0" * 64,
        model_sha256="0" * 64,
        step=1,
        shape=SHAPE,
        levels=LEVELS,
        count=count,
        apart=apart,
        coder={"kind": "levels"},
    )


def png(size: tuple[int, int] = (5, 3)) -> bytes:
    """A small PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(stream, "PNG")
    return stream.getvalue()


def small_file(images: np.ndarray | None = None) -> bytes:
    """A file with a chunk of every kind, and an image apart; 24 images and names."""
    images = some_images(23) if images is None else images
    stream, coder = io.BytesIO(), Levels()
    writer = ArchiveWriter(stream, header(len(images), 1), coder.golden())
    writer.apart(encode_apart(23, "other.png", png(), None))
    for payload in (
        chain_chunk(coder, images[:12], 0),
        each_chunk(coder, images[12:18], 12),
        plain_chunk(images[18:], 18),
    ):
        writer.chunk(payload)
    names = [*(f"a/{k}.png" for k in range(23)), "other.png"]
    facts = {"notes": ["a note"]}
    writer.finish(Table(names=names, kinds=[Kind(mode="L")], runs=[(0, 23), (-1, 1)], facts=facts))
    return stream.getvalue()
