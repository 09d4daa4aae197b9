"""Images that a model has no levels for: the file itself, or its pixels as lossless WebP if that is shorter.

payload = length of the head (4), head as JSON, data
"""

from __future__ import annotations

import json
import struct
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nelbo.codec.fallback import LONGEST_SIDE, MOST_PIXELS, from_webp, pack, to_webp, unpack
from nelbo.codec.kinds import Kind, from_rgba, has_more, same, to_rgba, why_apart
from nelbo.limits import memory

LENGTH = struct.Struct("<I")


class ApartHead(BaseModel):
    """What an image apart is.

    ``file`` is the file's bytes, ``xz`` the same by xz, and ``webp`` its pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    item: int = Field(ge=0)
    "Its number among all images of the file."
    name: str
    "Its name."
    method: Literal["file", "xz", "webp"]
    "What its data are."
    length: int = Field(ge=0)
    "Bytes of the file."
    size: tuple[int, int] = (0, 0)
    "Height and width of the pixels."
    kind: Kind | None = None
    "The kind of the pixels."


class ApartFile(NamedTuple):
    """The file of an image apart.

    Attributes:
        name: its name.
        payload: what is stored; it can be much shorter than the file.
        original: whether it is the given file; else a PNG of its pixels.
    """

    name: str
    payload: bytes
    original: bool

    @property
    def data(self) -> bytes:
        """The bytes of the file, which are unpacked each time; raises as :func:`decode_apart`."""
        return decode_apart(self.payload)[1]


def encode_apart(item: int, name: str, data: bytes, image: Image.Image | None) -> bytes:
    """The payload of an image apart.

    Args:
        item: its number.
        name: its name.
        data: its file.
        image: its pixels, loaded; None if they cannot be decoded.

    Returns:
        The shortest payload that gives back the file, or the pixels.

    Raises:
        ValueError: none does.
    """
    packed = pack(data)
    heads = [(ApartHead(item=item, name=name, method="file", length=len(data)), data)]
    heads.append((ApartHead(item=item, name=name, method="xz", length=len(data)), packed))
    if image is not None and (found := as_webp(image)) is not None:
        kind, webp = found
        size = (image.height, image.width)
        heads.append((ApartHead(item=item, name=name, method="webp", length=len(data), size=size, kind=kind), webp))
    for payload in sorted((joined(head, body) for head, body in heads), key=len):
        if gives_back(payload, data, image):
            return payload
    raise ValueError(f"no method gives back the file {name}")


def gives_back(payload: bytes, data: bytes, image: Image.Image | None) -> bool:
    """Whether a payload decodes to this file, or to a PNG of this image."""
    try:
        head, found = decode_apart(payload)
        if head.method != "webp":
            return found == data
        with Image.open(BytesIO(found)) as back:
            back.load()
            return image is not None and same(back, image) and Kind.of(back) == Kind.of(image)
    except ValueError:
        return False


def joined(head: ApartHead, body: bytes) -> bytes:
    """A head and its data."""
    text = json.dumps(head.model_dump(exclude_defaults=True)).encode()
    return LENGTH.pack(len(text)) + text + body


def as_webp(image: Image.Image) -> tuple[Kind, bytes] | None:
    """The kind and the WebP of an image, if it comes back as it is."""
    if (
        why_apart(image) is not None
        or has_more(image)
        or max(image.size) > LONGEST_SIDE
        or image.width * image.height > MOST_PIXELS
    ):
        return None
    try:
        kind = Kind.of(image)
        rgba = to_rgba(image, kind)
        webp = to_webp(rgba)
        back = from_rgba(from_webp(webp, rgba.shape[:2]), kind)
    except ValueError:
        return None
    return (kind, webp) if same(back, image) else None


def decode_apart(payload: bytes) -> tuple[ApartHead, bytes]:
    """The head, and the bytes of the file that stands for the image: the same file, or a PNG of its pixels.

    Raises:
        ValueError: the payload is damaged.
    """
    head, data = head_of(payload)
    if head.method == "file":
        if len(data) != head.length:
            raise ValueError("another number of bytes")
        return head, data
    if head.method == "xz":
        if head.length > memory() // 4:
            raise ValueError("claims more bytes than there is memory")
        return head, unpack(data, head.length)
    if head.kind is None or head.size[0] * head.size[1] > MOST_PIXELS:
        raise ValueError("no kind, or too many pixels")
    return head, as_png_bytes(from_rgba(from_webp(data, head.size), head.kind), head.kind)


def head_of(payload: bytes) -> tuple[ApartHead, bytes]:
    """The head and the data of a payload.

    Raises:
        ValueError: the head is damaged.
    """
    length = int(np.frombuffer(payload[: LENGTH.size].ljust(LENGTH.size, b"\0"), "<u4")[0])
    text = payload[LENGTH.size : LENGTH.size + length]
    try:
        return ApartHead.model_validate(json.loads(text)), payload[LENGTH.size + length :]
    except (ValidationError, ValueError, RecursionError) as error:
        raise ValueError(f"a damaged head: {str(error).splitlines()[0]}") from None


def as_png_bytes(image: Image.Image, kind: Kind) -> bytes:
    """An image as PNG."""
    stream = BytesIO()
    image.save(stream, "PNG", **kind.png)
    return stream.getvalue()
