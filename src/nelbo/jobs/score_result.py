"""A score as one JSON object, and as a file in RUN/scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.jobs.sharded import shared_measures
from nelbo.metrics import LikelihoodScore, stderr_of_mean
from nelbo.models.base import GenerativeModel
from nelbo.models.forms import Estimator

AT_LEAST = "_at_least"
"""How the name of a bound from below ends; what it bounds is a divergence, and never negative."""


def stored(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The score in this file, if it is one, and whole."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in asked.items()):
        return None
    return known if "bits_per_dim" in known and "terms" in known else None


def summarise(result: LikelihoodScore, asked: dict[str, Any], levels: int, form: Estimator) -> dict[str, Any]:
    """The score as one JSON object; all standard errors in bits/dim.

    What stands beside the terms, and is no part of their sum, has names of its own: ``difference``, for one.
    """

    def measured(name: str) -> dict[str, float | None]:
        return {"nats": result.nats(name), "bits_per_dim": result.bits(name), "stderr": result.stderr(name)}

    return {
        **asked,
        "levels": levels,
        "dims": result.dims,
        "kind": form.kind,
        **({} if form.why is None else {"why": form.why}),
        "terms": {name: measured(name) for name in result.terms},
        **{name: measured(name) for name in result.extras},
        "nats": result.nats(),
        "bits_per_dim": result.bits(),
        "stderr_mc": result.stderr_mc(),
        "stderr_data": result.stderr_data(),
        "stderr": result.stderr(),
        "evaluations": result.evaluations,
    }


def own_measures(
    model: GenerativeModel, images: Tensor, copies: Tensor, asked: dict[str, Any], levels: int
) -> dict[str, Any]:
    """The answer of a family without a likelihood: why there is none, and what it measures of itself instead.

    ``copies`` has the number of each image's distinct image.
    """
    found = shared_measures(model, images)
    return {
        **asked,
        "levels": levels,
        "dims": model.dims,
        "kind": "none",
        "why": model.inspector.why_no_bound,
        "terms": {},
        "bits_per_dim": None,
        "measures": {name: own_measure(name, each, copies) for name, each in found.items()},
        **condition(model, images, asked["step"]),
    }


def own_measure(name: str, each: Tensor, copies: Tensor | None = None) -> dict[str, float | None]:
    """The mean of a measure and its error. A bound from below of what is never negative is at least 0.

    Where its estimate is negative, 0 is all that is proved, and the estimate stands beside it.
    """
    mean = float(each.mean())
    stderr = stderr_of_mean(each.double(), copies)
    if name.endswith(AT_LEAST) and mean < 0:
        return {"value": 0.0, "stderr": stderr, "estimate": mean}
    return {"value": mean, "stderr": stderr}


def condition(model: GenerativeModel, images: Tensor, step: int) -> dict[str, Any]:
    """What else these images show of the model, and, when it is not too early to say, what is wrong with it."""
    found = model.inspector.diagnostics(images)
    warnings = model.inspector.warnings(found) if step >= model.inspector.earliest_warning else []
    return {**({"diagnostics": found} if found else {}), "warnings": warnings}


def against_baseline(result: LikelihoodScore, other: LikelihoodScore) -> dict[str, float | None]:
    """The baseline's bits/dim, and run − baseline with its errors, paired by image and noise."""
    difference = result.minus(other)
    return {
        "bits_per_dim": other.bits(),
        "difference": difference.bits(),
        "stderr_mc": difference.stderr_mc(),
        "stderr_data": difference.stderr_data(),
        "stderr": difference.stderr(),
    }
