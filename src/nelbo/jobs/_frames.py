"""Messages between nelbo and its workers, over pipes: one JSON object and some bytes."""

from __future__ import annotations

import json
import struct
from typing import IO, Any

LENGTHS = struct.Struct("<QQ")


def send(stream: IO[bytes], said: dict[str, Any], data: bytes | memoryview = b"") -> None:
    """Write a message.

    Raises:
        OSError: nobody reads it.
    """
    text = json.dumps(said).encode()
    stream.write(LENGTHS.pack(len(text), len(data)))
    stream.write(text)
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Raises:
        EOFError: the other side has ended.
    """
    lengths = exactly(stream, LENGTHS.size)
    text, data = LENGTHS.unpack(lengths)
    return json.loads(exactly(stream, text)), exactly(stream, data)


def exactly(stream: IO[bytes], length: int) -> bytes:
    """This number of bytes.

    Raises:
        EOFError: the other side has ended.
    """
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the other side has ended")
    return data
