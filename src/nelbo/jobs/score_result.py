"""Parts of a :class:`~nelbo.report.results.Score`, computed from estimates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from nelbo.jobs.sharded import shared_measures
from nelbo.metrics import LikelihoodScore, stderr_of_mean
from nelbo.models.base import GenerativeModel
from nelbo.models.forms import Estimator
from nelbo.report.results import Difference, GivenLabels, Measure, Term
from nelbo.units import bits_per_dim

AT_LEAST = "_at_least"
"""Suffix of the name of a lower bound of a divergence, which is never negative."""


def summarise(result: LikelihoodScore, form: Estimator) -> dict[str, Any]:
    """The fields of a score from its estimates; each extra is a field with its own name."""
    return {
        "kind": form.kind,
        **({} if form.why is None else {"why": form.why}),
        "terms": terms_of(result, result.terms),
        **terms_of(result, result.extras),
        "nats": result.nats(),
        "bits_per_dim": result.bits(),
        "stderr_mc": result.stderr_mc(),
        "stderr_data": result.stderr_data(),
        "stderr": result.stderr(),
        "evaluations": result.evaluations,
    }


def terms_of(result: LikelihoodScore, names: Iterable[str]) -> dict[str, Term]:
    """Terms or extras by name, each with its error."""
    return {n: Term(nats=result.nats(n), bits_per_dim=result.bits(n), stderr=result.stderr(n)) for n in names}


def given_labels(result: LikelihoodScore, labelled: LikelihoodScore) -> GivenLabels:
    """The bound of p(x|y), and what the label saves, bound of p(x) − bound of p(x|y), paired by image and noise.

    Args:
        result: of p(x).
        labelled: of p(x|y), of the same images with the same noise.
    """
    saved = result.minus(labelled)
    return GivenLabels(
        terms=terms_of(labelled, labelled.terms),
        bits_per_dim=labelled.bits(),
        saved=saved.bits(),
        saved_bits=bits_per_dim(saved.nats(), 1),
        stderr_mc=saved.stderr_mc(),
        stderr_data=saved.stderr_data(),
        stderr=saved.stderr(),
    )


def own_measures(model: GenerativeModel, images: Tensor, copies: Tensor) -> dict[str, Any]:
    """The fields of a score without a likelihood: the reason, and the family's own measures.

    Args:
        model: the model.
        images: integer levels, shape (n, C, H, W).
        copies: the index of each image's distinct image, shape (n,).
    """
    found = shared_measures(model, images)
    return {
        "kind": "none",
        "why": model.inspector.why_no_bound,
        "terms": {},
        "bits_per_dim": None,
        "measures": {name: own_measure(name, each, copies) for name, each in found.items()},
    }


def own_measure(name: str, each: Tensor, copies: Tensor | None = None) -> Measure:
    """The mean of a measure and its error.

    A lower bound of a divergence with a negative estimate becomes 0; ``estimate`` then has the negative number.

    Args:
        name: the name of the measure.
        each: its value for each image, shape (n,).
        copies: the index of each image's distinct image, shape (n,); None if all are distinct.
    """
    mean = float(each.mean())
    stderr = stderr_of_mean(each.double(), copies)
    if name.endswith(AT_LEAST) and mean < 0:
        return Measure(value=0.0, stderr=stderr, estimate=mean)
    return Measure(value=mean, stderr=stderr)


def condition(model: GenerativeModel, images: Tensor, step: int) -> dict[str, Any]:
    """Diagnostics of the model on these images and, after enough steps, its warnings."""
    found = model.inspector.diagnostics(images)
    warnings = model.inspector.warnings(found) if step >= model.inspector.earliest_warning else []
    return {**({"diagnostics": found} if found else {}), "warnings": warnings}


def against_baseline(result: LikelihoodScore, other: LikelihoodScore) -> Difference:
    """The baseline's bits/dim, and run − baseline with its errors, paired by image and noise."""
    difference = result.minus(other)
    return Difference(
        bits_per_dim=other.bits(),
        difference=difference.bits(),
        stderr_mc=difference.stderr_mc(),
        stderr_data=difference.stderr_data(),
        stderr=difference.stderr(),
    )
