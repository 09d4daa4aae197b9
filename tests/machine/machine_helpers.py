"""Helpers of the machine tests: a command line in this process, and very small runs."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cyclopts
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nelbo.cli.app import build_app, run
from nelbo.models.base import GenerativeModel
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.rng import Draws
from nelbo.training import latest_checkpoint, read_checkpoint

SMALL = {
    **{"--widths": "8 8", "--timesteps": "30", "--schedule": "linear", "--objective": "simple"},
    "--reverse-variance": "beta_tilde",
    **{"--batch-size": "8", "--device": "cpu", "--precision": "fp32"},
}


def tiny(*given: str | Path) -> list[str]:
    """The options of a very small model, less those that are given anyway."""
    return [word for name, value in SMALL.items() if name not in given for word in (name, *value.split())]


TINY = tiny()


class Answer(NamedTuple):
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def as_if_typed(argv: Sequence[str]) -> Iterator[None]:
    """``sys.argv`` as a shell would have made it."""
    old, sys.argv = sys.argv, ["nelbo", *argv]
    try:
        yield
    finally:
        sys.argv = old


def call(*argv: str | Path) -> Answer:
    """Run one command line in this process."""
    words = [str(word) for word in argv]
    out, err = io.StringIO(), io.StringIO()
    with as_if_typed(words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return Answer(code, out.getvalue(), err.getvalue())


def call_well(*argv: str | Path) -> Answer:
    """Run one command line that has to end well."""
    answer = call(*argv)
    assert answer.code == 0, answer.err
    return answer


def train_tiny(out: Path, *more: str | Path, steps: int = 4) -> Path:
    """Train a very small DDPM; a few steps, on digits unless told otherwise."""
    call_well("train", "ddpm", *tiny(*more), "--steps", str(steps), "--out", out, *more)
    return out


def app_for(argv: Sequence[str]) -> cyclopts.App:
    """The parser that would read this command line."""
    with as_if_typed(argv):
        return build_app(list(argv)) if inspect.signature(build_app).parameters else build_app()


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder, with a hash of what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def require_refusal(line: str, names: Mapping[str, Path], words: Sequence[str], here: Path) -> None:
    """A command is refused: exit code 2, one line with these words on stderr, and nothing in ``here`` is changed.

    Args:
        line: the command, in which names stand for paths.
        names: these.
        words: what the line says.
        here: the working directory.
    """
    before = listing(here)
    answer = call(*(str(names.get(word, word)) for word in line.split()))
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.strip().splitlines()) == 1
    for word in words:
        assert word in answer.err
    assert listing(here) == before


def write_pictures(folder: Path, count: int = 12, size: tuple[int, int] = (10, 14), seed: int = 0) -> Path:
    """A folder of small RGB PNGs, (height, width), with some structure in them."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for k in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8) // 4 + np.uint8(10 * k)
        Image.fromarray(pixels).save(folder / f"{k:02d}.png")
    return folder


def same_tensors(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Two dictionaries of tensors are the same to the bit."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), f"{name} differs"


class Toy(GenerativeModel):
    """The least that can be trained: a matrix and a vector. Remembers every batch that it was shown."""

    family = "toy"

    def __init__(self, size: int = 3, scale: float = 1.0) -> None:
        super().__init__((1, 1, size), 256)
        self.matrix = torch.nn.Parameter(torch.linspace(-1.0, 1.0, size * size).reshape(size, size))
        self.vector = torch.nn.Parameter(torch.linspace(0.5, 1.5, size))
        self.scale = scale
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        self.seen.append(x.clone())
        return self.scale * (x.flatten(1).float() / 255 @ self.matrix + self.vector).square().mean(1)

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        yield Frame(1, 1, torch.zeros(len(indices), *self.shape), torch.zeros(len(indices), *self.shape))


def environment() -> dict[str, str]:
    """For a process of its own: one thread, so that a busy machine does not slow it down."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def tensors_of(run: Path, part: str = "model") -> dict[str, Tensor]:
    """The tensors of a run's latest checkpoint."""
    folder = latest_checkpoint(run)
    assert folder is not None
    return read_checkpoint(folder).tensors[part]


def forget_settings(run: Path) -> None:
    """Make the checkpoint one that was written before settings were kept in it."""
    folder = latest_checkpoint(run)
    assert folder is not None
    path = folder / "state.json"
    state = json.loads(path.read_text())
    del state["settings"]
    path.write_text(json.dumps(state))
