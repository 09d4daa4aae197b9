"""The model of a file: of the weights that made it, also if the run was trained further since."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from nelbo import __version__
from nelbo.codec.archive import Header
from nelbo.codec.coder import Coder, EachCoder, Images, coder_for
from nelbo.codec.golden import TOLERANCE, difference
from nelbo.errors import InputError
from nelbo.jobs._digest import digest_of, model_settings
from nelbo.jobs.run import WEIGHTS, Run
from nelbo.models.base import GenerativeModel
from nelbo.training.checkpoint import read_state
from nelbo.training.folders import all_checkpoints

DIGITS = 7
"""Significant digits of a coder's settings: coefficients of laws, which both sides take from the file."""


def model_of(run: Run, weights: str, weights_sha256: str) -> GenerativeModel:
    """The model of a run with the weights of this hash, on the CPU.

    Raises:
        InputError: the run has no such weights, or they cannot be loaded.
    """
    if weights_of(run, run.checkpoint, weights) != weights_sha256:
        folders = [path for path in all_checkpoints(run.path) if weights_of(run, path, weights) == weights_sha256]
        if not folders:
            raise InputError("RUN", f"{run.path} does not have the weights that made the file; give the run that has")
        run.checkpoint = folders[-1]
    return run.model(weights, "cpu")


def weights_of(run: Run, checkpoint: Path, weights: str) -> str | None:
    """The hash of the weights of a checkpoint; None if its state cannot be read."""
    try:
        return str(read_state(checkpoint)["files"][WEIGHTS[weights]]["sha256"])
    except (InputError, KeyError):
        if checkpoint == run.checkpoint:
            raise
        return None


def require_model(run: Run, header: Header) -> None:
    """Check that a run is of the model that made a file, before its weights are loaded.

    Raises:
        InputError: it is of another one.
    """
    images = run.config.images
    same = run.config.family == header.family and (images.shape, images.levels) == (header.shape, header.levels)
    altered = header.nelbo == __version__ and digest_of(model_settings(run)) != header.model_sha256
    if not same or altered:
        shape = "×".join(map(str, header.shape))
        made = f"a {header.family} for images of {shape} with {header.levels} levels, at step {header.step:,}"
        raise InputError("RUN", f"{run.path} is not the run that made the file: that was {made}; choose that one")


def new_coder(model: GenerativeModel, images: Images, each: bool) -> Coder | EachCoder:
    """A coder whose settings take few bytes.

    Args:
        model: the model, in the steps of the file.
        images: examples of what it will code.
        each: whether it codes images one by one.

    Raises:
        InputError: the model has no such codec.
    """
    return coder_for(model, rounded(coder_for(model, images=images, each=each).settings))


def rounded(value: Any) -> Any:
    """JSON values with numbers of few digits; powers of two stay as they are, because widths of bins may be some.

    >>> rounded({"steps": [{"gamma": -1.1285714285714, "width": 2.0**-20}], "in_flight": 8})
    {'steps': [{'gamma': -1.128571, 'width': 9.5367431640625e-07}], 'in_flight': 8}
    """
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if not isinstance(value, float) or abs(math.frexp(value)[0]) == 0.5:
        return value
    return float(f"{value:.{DIGITS}g}")


def require_golden(coder: Coder | EachCoder, golden: np.ndarray, made_by: str) -> None:
    """Check that this machine computes the laws that made a file.

    Args:
        coder: the coder of the file.
        golden: the parameters of its laws for fixed inputs when the file was made.
        made_by: the version that made it, for the message.

    Raises:
        InputError: it computes others.
    """
    off = difference(coder.golden(), golden)
    if not off <= TOLERANCE:
        why = f"this machine's numbers differ by {off:.1e} from those that made the file{made_by}"
        raise InputError("RUN", f"{why}, so it cannot be decoded here; use the machine or the version that made it")


def made_by(header: Header) -> str:
    """The version that made a file, if it is another one, in brackets."""
    return "" if header.nelbo == __version__ else f" (nelbo {header.nelbo} made the file)"
