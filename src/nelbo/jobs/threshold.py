"""RUN/scores/threshold.json: a threshold for a stated rate of false alarms, from the run's val split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from nelbo.errors import InputError
from nelbo.files import replace_text
from nelbo.jobs._digest import digests
from nelbo.jobs.chosen_data import chosen_data
from nelbo.jobs.kept import kept_nats, read_bytes
from nelbo.jobs.run import Run
from nelbo.jobs.score_request import Estimation, ScoreRequest
from nelbo.metrics import false_alarm_threshold
from nelbo.metrics.anomaly import rank_of_rate
from nelbo.processes import join
from nelbo.report.results import Threshold
from nelbo.units import bits_per_dim

FILE = "threshold.json"
RATE = 0.01
"""The default rate of false alarms."""


class Limit(NamedTuple):
    """The threshold that images are compared with.

    Attributes:
        threshold: the threshold; None if there is none.
        why_none: the reason, as a sentence; "" if there is one.
    """

    threshold: Threshold | None = None
    why_none: str = ""

    def fields(self, each: Tensor) -> dict[str, Any]:
        """The fields of a score for images with these nats, shape (n,)."""
        if self.threshold is None:
            return {}
        return {"threshold": self.threshold, "over": int((each > self.threshold.nats).sum())}


def chosen_limit(request: ScoreRequest, how: Estimation, measure: Callable[[ScoreRequest], object]) -> Limit:
    """The kept threshold of these settings, or one that is stated now, if ``false_alarms`` or ``worst`` asks for it.

    Args:
        request: the request of a score that compares images with a threshold.
        how: how its bound is estimated; the images of val are scored in the same way.
        measure: scores the images of a request, and stores the score.

    Raises:
        InputError: the run's images cannot be read, or are too few for the rate, and ``false_alarms`` is given.
    """
    options, settings = request.options, settings_of(request, how)
    if options.false_alarms is not None:
        return Limit(stated(request, how, settings, options.false_alarms, measure))
    known = read_threshold(request.run)
    if known is not None and known.settings == settings:
        return Limit(known)
    if options.worst is None:
        other = "the kept threshold is of other weights or settings, so no image is marked; add `false_alarms`"
        return Limit(why_none="" if known is None else other)
    try:
        return Limit(stated(request, how, settings, RATE, measure))
    except InputError as error:
        return Limit(why_none=error.problem)


def least_rate(run: Run) -> float:
    """The smallest rate of false alarms that the n distinct images of the run's val split can state, 1/(n + 1)."""
    return 1 / (len(np.unique(run.dataset.copies("val").numpy())) + 1)


def settings_of(request: ScoreRequest, how: Estimation) -> dict[str, Any]:
    """What the law of a normal image's score depends on."""
    own = {"data_sha256": request.run.config.images.sha256, "weights": request.options.weights}
    return {**own, **digests(request.run, request.options.weights), **how.key}


def stated(
    request: ScoreRequest,
    how: Estimation,
    settings: dict[str, Any],
    rate: float,
    measure: Callable[[ScoreRequest], object],
) -> Threshold:
    """The threshold for this rate, from the scores of val, which are found again or measured; it is stored.

    Raises:
        InputError: the run's images cannot be read, or val has too few of them for this rate.
    """
    asked = {"split": "val", "limit": None, "baseline": None, "against": None, "profile": None, "sort": False}
    asked |= {"per_image": None, "worst": None, "out": None, "false_alarms": None}
    of_val = replace(request, dataset=chosen_data(request.run, None), options=request.options.model_copy(update=asked))
    distinct = np.unique(of_val.copies.numpy(), return_index=True)[1]
    if rank_of_rate(len(distinct), rate) < 1:
        few = f"{len(distinct):,} distinct images of val cannot state a rate of {rate:g}"
        raise InputError("false_alarms", f"{few}, which takes {math.ceil(1 / rate - 1e-9) - 1:,}; name a larger rate")
    each = nats_of(of_val, how, measure)
    found = false_alarm_threshold(each[distinct], rate)
    low, high = found.interval()
    record = Threshold(
        false_alarms=rate,
        bits_per_dim=bits_per_dim(found.value, request.model.dims),
        nats=found.value,
        rank=found.rank,
        n=found.n,
        low=low,
        high=high,
        seed=request.options.seed,
        settings=settings,
    )
    if join().main:
        replace_text(request.run.path / "scores" / FILE, record.to_json(indent=1))
    return record


def nats_of(request: ScoreRequest, how: Estimation, measure: Callable[[ScoreRequest], object]) -> Tensor:
    """The nats of each image of a request, found again or measured, shape (n,)."""
    key = request.key | how.key
    again = request.options.again or kept_nats(request.run, key) is None
    measure(replace(request, options=request.options.model_copy(update={"again": again})))
    each = kept_nats(request.run, key)
    assert each is not None
    return each


def read_threshold(run: Run) -> Threshold | None:
    """The kept threshold of a run; None if there is none, or it is damaged."""
    text = join().from_main(lambda: read_bytes(run.path / "scores" / FILE))
    try:
        return Threshold.model_validate_json(text)
    except ValueError:
        return None
