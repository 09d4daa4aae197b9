"""Small sets, and a local server that provides them."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nelbo.data import Dataset

Pixels = NDArray[np.uint8]


def idx_bytes(values: Pixels) -> bytes:
    """An IDX file by the letter of the format, without numpy's help for the header."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def random_pixels(shape: tuple[int, ...], seed: int = 0, top: int = 256) -> Pixels:
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)


def reading_notes(data: Dataset) -> tuple[str, ...]:
    """What was said of how the images were read: few images may leave a split empty, which is said too."""
    return tuple(note for note in data.notes if "would be empty" not in note)


def write_images(folder: Path, images: Pixels, names: str = "{}.png") -> list[Path]:
    """Write (N, H, W) or (N, H, W, C) as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / names.format(row) for row in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


class Server:
    """What the server gives out, and what it was asked.

    ``cut`` ends so many answers after half of their bytes; ``ranges`` says whether it honours Range; ``moved`` sends
    from one name to another. With ``pause`` it waits so many seconds after half of each answer, and with ``drip`` too
    after every byte of the rest.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.cut = 0
        self.moved: dict[str, str] = {}
        self.pause, self.drip = 0.0, False
        self.done = threading.Event()
        self.url = ""


def handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if self.path.lstrip("/") in state.moved:
                self.send_response(302)
                self.send_header("Location", state.url + state.moved[self.path.lstrip("/")])
                self.end_headers()
                return
            data = state.files.get(self.path.lstrip("/"))
            if data is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            body = data[start:]
            if state.cut:
                state.cut -= 1
                body = body[: len(body) // 2]
            if state.pause:
                body = self.slowly(body)
            self.wfile.write(body)

        def slowly(self, body: bytes) -> bytes:
            """Send half of it, wait, and drip; returns what is left to send."""
            half = len(body) // 2
            self.wfile.write(body[:half])
            time.sleep(state.pause)
            if not state.drip:
                return body[half:]
            for k in range(half, len(body)):
                try:
                    self.wfile.write(body[k : k + 1])
                except OSError:  # nobody listens any more
                    break
                if state.done.wait(state.pause):
                    break
            return b""

    return Handler


TRAIN, TEST, HELD = 30, 10, 5
STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def tiny_arrays() -> list[Pixels]:
    return [
        random_pixels((TRAIN, 4, 5), 1),
        random_pixels((TRAIN,), 2, 10),
        random_pixels((TEST, 4, 5), 3),
        random_pixels((TEST,), 4, 10),
    ]


def cifar_files(count: int = 2) -> dict[str, bytes]:
    """Six small files of records in CIFAR-10's binary layout."""
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    files = {}
    for seed, name in enumerate(names):
        labels = random_pixels((count, 1), 10 + seed, 10)
        files[name] = np.concatenate([labels, random_pixels((count, 3 * 4 * 5), 20 + seed)], axis=1).tobytes()
    return files


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
