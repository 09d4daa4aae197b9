"""A score as one JSON object, as a file in RUN/scores, and as a table of images."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.files import whole
from nelbo.jobs._shares import shared_measures
from nelbo.metrics import LikelihoodScore, stderr_of_mean
from nelbo.models.base import Form, GenerativeModel
from nelbo.units import bits_per_dim


def key_of(asked: dict[str, Any]) -> str:
    """A short name for what was asked."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def stored(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The score in this file, if it is one, and whole."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or any(known.get(name) != value for name, value in asked.items()):
        return None
    return known if "bits_per_dim" in known and "terms" in known else None


def summarise(result: LikelihoodScore, asked: dict[str, Any], levels: int, form: Form) -> dict[str, Any]:
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
        **{name: measured(name) for name in result.beside},
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
        "why": model.why_no_bound,
        "terms": {},
        "bits_per_dim": None,
        "measures": {
            name: {
                "value": float(each.mean()),
                "stderr": stderr_of_mean(each.double(), copies),
            }
            for name, each in found.items()
        },
        **condition(model, images),
    }


def condition(model: GenerativeModel, images: Tensor) -> dict[str, Any]:
    """What else these images show of the model, and what is wrong with it."""
    found = model.diagnostics(images)
    return {**({"diagnostics": found} if found else {}), "ailments": model.ailments(found)}


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


def write_per_image(result: LikelihoodScore, out: Path) -> None:
    """One row per image: index, then each term and the total in nats and in bits/dim."""
    names = [*result.terms, "total"]
    columns = {name: result.estimates(name).mean(1).tolist() for name in names}
    with whole(out) as aside, aside.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", *(f"{name}_{unit}" for name in names for unit in ("nats", "bits_per_dim"))])
        for i in range(result.n):
            values = ((columns[name][i], bits_per_dim(columns[name][i], result.dims)) for name in names)
            table.writerow([i, *(f"{value:.6f}" for pair in values for value in pair)])
