"""A process that codes chunks of images, ``python -m nelbo.jobs.codec_worker``; ``jobs/codec_crew.py`` starts it.

It reads what to do from stdin and answers on stdout. It ends when stdin ends, or its parent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from nelbo.codec.chunks import chain_chunk, decode_chunk, each_chunk
from nelbo.codec.coder import Coder, EachCoder, Images, coder_for
from nelbo.errors import InputError
from nelbo.jobs._frames import receive, send
from nelbo.jobs.codec_model import model_of
from nelbo.jobs.run import Run
from nelbo.options import Shape

WATCH = 1.0
"""Seconds between two looks at the parent."""


class ChunkCoder:
    """Codes and decodes chunks.

    Args:
        coder: the coder.
        shape: (C, H, W).
        each: whether it codes images one by one.
    """

    def __init__(self, coder: Coder | EachCoder, shape: Shape, each: bool) -> None:
        self.coder, self.shape, self.each = coder, shape, each

    def encode(self, images: Images, first: int, step: Any) -> bytes:
        """A chunk of these images."""
        make: Any = each_chunk if self.each else chain_chunk
        made: bytes = make(self.coder, images, first, step)
        return made

    def decode(self, payload: bytes, step: Any) -> Images:
        """The images of a chunk; raises DamagedChunkError."""
        return decode_chunk(payload, self.shape, self.coder, step)


def opened(said: dict[str, Any]) -> ChunkCoder:
    """The coder of a run.

    Args:
        said: the path of the run, its weights and their hash, the settings of the coder, and whether images are coded
            one by one.
    """
    run = Run(said["run"])
    model = model_of(run, said["weights"], said["weights_sha256"])
    return ChunkCoder(coder_for(model, said["settings"]), run.config.images.shape, said["each"])


def answer(coder: ChunkCoder, said: dict[str, Any], data: bytes, out: BinaryIO) -> None:
    """Do what was asked, and answer."""

    start = time.process_time()

    def step(count: int) -> None:
        send(out, {"step": count})

    def finish(found: bytes) -> None:
        send(out, {"seconds": time.process_time() - start}, found)

    if said["do"] == "encode":
        images = np.frombuffer(bytearray(data), np.uint8).reshape(-1, *coder.shape)  # torch wants it to be writable
        finish(coder.encode(images, said["first"], step))
    else:
        finish(coder.decode(data, step).tobytes())


def watch_parent(parent: int) -> None:
    """End this process when its parent ends, for example by kill −9."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def main() -> None:
    """Answer until stdin ends. Every exception, a panic of the entropy coder too, is an answer."""
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    watch_parent(int(sys.argv[1]))
    coder: ChunkCoder | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            said, data = receive(sys.stdin.buffer)
            try:
                if coder is None:
                    coder = opened(said)
                    send(out, {"seconds": 0.0})
                else:
                    answer(coder, said, data, out)
            except BrokenPipeError:
                raise
            except InputError as error:
                send(out, {"where": error.where, "problem": error.problem})
            except BaseException as error:
                send(out, {"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main()
