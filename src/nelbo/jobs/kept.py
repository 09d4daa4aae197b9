"""RUN/scores: results are stored there, and reused for the same request."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from nelbo.files import atomic_write, replace_text
from nelbo.jobs._digest import digest_of
from nelbo.jobs.run import Run
from nelbo.processes import join
from nelbo.report.results import Kept

K = TypeVar("K", bound=Kept)
Answer = tuple[dict[str, Any], Tensor | None]
"""Field → value of a result; and the nats of each image, shape (n,), if there are any."""


def kept(run: Run, kind: type[K], asked: dict[str, Any], answer: Callable[[], Answer], again: bool = False) -> K:
    """The stored result of the same request, or the result of ``answer``, which is then stored.

    The nats of each image are stored as .npy, for comparisons of two runs.

    Args:
        run: the run.
        kind: the class of the result.
        asked: everything the result depends on, field → value, with digests of weights, settings and code; the name of
            the file is the digest of ``asked``.
        answer: computes the result.
        again: whether to compute it even if it is stored.
    """
    file, team = kept_file(run, asked), join()

    def stored() -> bytes:
        known = None if again else read_kept(file, kind)
        fits = known is not None and known.as_dict().items() >= asked.items()
        return known.to_json().encode() if known is not None and fits else b""

    if text := team.from_main(stored):
        return kind.model_validate_json(text)
    started = time.monotonic()
    values, each = answer()
    found = kind.model_validate(asked | values | {"seconds": round(time.monotonic() - started, 3)})
    if team.main:
        if each is not None:
            with atomic_write(file.with_suffix(".npy")) as aside:
                np.save(aside, each.numpy())
        replace_text(file, found.to_json(indent=1))
    return found


def kept_file(run: Run, asked: dict[str, Any]) -> Path:
    """The file in RUN/scores of the result of this request."""
    return run.path / "scores" / f"{asked['split']}-{digest_of(asked)[:12]}.json"


def kept_nats(run: Run, asked: dict[str, Any]) -> Tensor | None:
    """The nats of each image of the stored result of this request, float64, shape (n,); None if they are not stored."""
    text = join().from_main(lambda: read_bytes(kept_file(run, asked).with_suffix(".npy")))
    try:
        each = np.load(io.BytesIO(text), allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    return torch.from_numpy(each) if each.shape == (asked["n"],) and each.dtype == np.float64 else None


def read_bytes(file: Path) -> bytes:
    """The content of a file; nothing if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def read_kept(file: Path, kind: type[K]) -> K | None:
    """The result in this file, if it is complete and of this kind."""
    try:
        return kind.model_validate(json.loads(file.read_text()))
    except (OSError, ValueError, ValidationError):
        return None
