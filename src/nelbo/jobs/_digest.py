"""Digests of what a stored result depends on: weights, settings, images and code."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from nelbo import __version__
from nelbo.config.trained import weight_settings
from nelbo.jobs.run import WEIGHTS, Run

REVISION = 3
"""Revision of the measuring code. Increase it with every change after which the same weights and images give another
result: in a bound or its estimator, in the noise of a seed, in a sampler's defaults, in a distance.
"""


LATER: dict[str, Any] = {"clusters": 0, "labels": False, "label_dropout": None, "classes": []}
"""Settings of [model] that older runs lack, with the values that leave the model as it was: not part of its digest."""


def digest_of(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests(run: Run, weights: str) -> dict[str, str]:
    """The digests of a run's model and of the measuring code.

    Args:
        run: the run, with its weights loaded, which compares them with the hash in state.json.
        weights: ``ema`` or ``raw``.
    """
    return {
        "weights_sha256": run.state["files"][WEIGHTS[weights]]["sha256"],
        "model_sha256": digest_of(model_settings(run)),
        "code": f"{__version__}, revision {REVISION}",
    }


def model_settings(run: Run) -> dict[str, Any]:
    """The settings that the weights depend on, without those that older runs lack and that change nothing."""
    settings = weight_settings(run.config)
    model = {name: value for name, value in settings["model"].items() if name not in LATER or value != LATER[name]}
    return {**settings, "model": model}
