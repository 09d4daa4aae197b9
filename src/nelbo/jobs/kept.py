"""RUN/scores: what was measured is kept there, and read back where the very same is asked for again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from nelbo.files import atomic_write, replace_text
from nelbo.jobs._digest import digest_of
from nelbo.jobs.run import Run
from nelbo.processes import join
from nelbo.report.results import Kept

K = TypeVar("K", bound=Kept)
Answer = tuple[dict[str, Any], Tensor | None]
"""What was measured, field → value; and the nats of each image, shape (n,), if there are any."""


def kept(run: Run, kind: type[K], asked: dict[str, Any], answer: Callable[[], Answer], again: bool = False) -> K:
    """What RUN/scores holds for what was asked, or the answer, kept there.

    The nats of each image are kept beside it as .npy, to compare two runs by.

    Args:
        run: the run.
        kind: the class of the result.
        asked: what the answer depends on, field → value, with digests of weights, settings and code; the name of the
            file is the digest of it all.
        answer: measures.
        again: measure even if the answer is known.
    """
    file = run.path / "scores" / f"{asked['split']}-{digest_of(asked)[:12]}.json"
    team = join()

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


def read_kept(file: Path, kind: type[K]) -> K | None:
    """The result in this file, if it is one of this kind, and whole."""
    try:
        return kind.model_validate(json.loads(file.read_text()))
    except (OSError, ValueError, ValidationError):
        return None
