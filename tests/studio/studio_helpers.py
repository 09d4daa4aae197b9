"""Helpers of the tests: folders with runs and images, a studio in a process of its own, its page in Chromium."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import nelbo
from nelbo.data import load
from nelbo.report.pictures import picture

PICTURES = os.environ.get("NELBO_STUDIO_PICTURES")
"""The folder of the pictures of docs, when they are made."""
STEPS = 1500 if PICTURES else 80
LENGTH: dict[str, Any] = {"steps": STEPS} if PICTURES else {"minutes": 0.12}
"""Of a ddpm, whose samples on the way take longer than its steps unless it has minutes."""
STARTS = 60.0
"""Seconds that a studio may take to start on a busy machine."""


def make_folders(root: Path) -> Path:
    """A folder with two runs, and folders of images beside it: photos, with a broken file, and copied, with copies."""
    tiny: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    nelbo.train("ddpm", out=root / "runs/digits-ddpm", **LENGTH, widths=(16, 16), labels=True, **tiny)
    nelbo.train("vae", out=root / "runs/digits-vae", steps=STEPS, widths=(16, 16), **tiny)
    digits = load("digits")
    for k, image in enumerate(digits.split("test")[:40]):
        path = root / "photos" / f"{k % 2}" / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(image, 17).resize((24, 24)).save(path)
    (root / "photos/0/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for split in ("train", "test"):
        (root / "copied" / split).mkdir(parents=True)
        for k, image in enumerate(digits.split(split)[:12]):
            picture(image, 17).save(root / "copied" / split / f"{k:02d}.png")
    Image.open(root / "copied/train/03.png").save(root / "copied/test/copy.png")
    return root


class Served(NamedTuple):
    """A studio that runs.

    Attributes:
        address: its address, as printed.
        process: its process.
        first: seconds until the first page.
        ready: seconds until all screens.
    """

    address: str
    process: subprocess.Popen[str]
    first: float
    ready: float

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.split(":")[2].split("/")[0])


def free_port() -> int:
    """A port that nothing uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(*folders: Path, host: str = "127.0.0.1", environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """A studio on these folders."""
    port, began = free_port(), time.monotonic()
    command = [sys.executable, "-m", "nelbo", "studio", *map(str, folders), "--port", str(port), "--host", host]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=None, text=True, env={**os.environ, **(environment or {})}
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    query = address.partition("?")[2]
    try:
        first = waited(f"http://127.0.0.1:{port}/?{query}", began)
        ready = waited(f"http://127.0.0.1:{port}/ready?{query}", began)
        yield Served(address, process, first, ready)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def waited(address: str, began: float) -> float:
    """Seconds from ``began`` until an address answers."""
    while time.monotonic() < began + STARTS:
        if status(address)[0] in (200, 303):
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError(f"{address} does not answer")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing."""

    def redirect_request(self, *args: Any) -> None:
        return None


def status(
    address: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
) -> tuple[int, str, Mapping[str, str]]:
    """Code, text and headers of the answer of an address; code 0 if there is none."""
    request = urllib.request.Request(address, headers=dict(headers or {}), data=data)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace"), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace"), error.headers
    except OSError:
        return 0, "", {}


def config_of(address: str) -> dict[str, Any]:
    """The page's own description of its components."""
    found: dict[str, Any] = json.loads(status(f"{address.partition('?')[0]}config")[1])
    return found
