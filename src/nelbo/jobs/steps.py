"""RUN/steps.json: the measured costs of the steps of a diffusion model, and models in their best steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from nelbo.diffusion.steps import StepCosts
from nelbo.errors import InputError
from nelbo.files import replace_text
from nelbo.jobs._digest import digests
from nelbo.jobs.run import Run
from nelbo.metrics.step_costs import score_steps
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion, in_steps, knows_image_var, with_variance
from nelbo.options import SamplingOptions, ScoreOptions
from nelbo.processes import join
from nelbo.report.progress import bar

STEPS = "steps.json"
IMAGES = 128
"""Images of val that the costs are measured on."""


def best_variance(model: Diffusion) -> str:
    """By moments if the model knows Var(x|z), else its own σ²."""
    return "moments" if knows_image_var(model) else model.reverse_variance


def asked_steps(run: Run, model: LikelihoodModel, options: ScoreOptions) -> LikelihoodModel:
    """The model in the steps that a score asks for.

    Raises:
        InputError: the options cannot be combined, or the model cannot be scored in these steps.
    """
    if options.T is None:
        for name in ("spacing", "reverse_variance"):
            if getattr(options, name) is not None:
                raise InputError(name, "applies to a bound in steps; add `T`, or leave it out")
        return model
    if options.spacing != "best":
        return in_steps(model, options.T, reverse_variance=options.reverse_variance)
    return in_best_steps(run, model, options.T, options.weights, options.reverse_variance)


def in_best_steps(
    run: Run, model: GenerativeModel, T: int, weights: str = "ema", reverse_variance: str | None = None
) -> Diffusion:
    """A run's model in the T steps with the lowest bound on val.

    Args:
        run: the run.
        model: its model with these weights.
        T: the number of steps, as in :func:`~nelbo.models.diffusion.in_steps`.
        weights: ``ema`` or ``raw``.
        reverse_variance: σ² of the steps; None for moments if the model has them, else its own.

    Raises:
        InputError: the model has no steps, or not this σ².
    """
    if not isinstance(model, Diffusion):
        raise InputError("spacing", f"a {model.family} has no steps; leave it out")
    variance = reverse_variance or best_variance(model)
    return in_steps(model, T, reverse_variance=variance, costs=run_costs(run, model, variance, weights))


def sampled_steps(run: Run, model: GenerativeModel, options: SamplingOptions, weights: str) -> GenerativeModel:
    """The model in the steps that sampling asks for: the best ``steps`` with ``spacing`` best, else its own.

    Raises:
        InputError: the options cannot be combined.
    """
    if options.spacing != "best":
        return model
    if options.sampler not in (None, "ancestral"):
        raise InputError("spacing", f"best steps are those of ancestral, not of {options.sampler}; leave it out")
    if options.steps is None:
        raise InputError("spacing", "best steps need their number; add `steps`")
    if not isinstance(model, Diffusion):
        raise InputError("spacing", f"a {model.family} has no steps; leave it out")
    return in_best_steps(run, model, max(1, options.steps - (model.timeline.gammas is None)), weights)


def run_costs(run: Run, model: Diffusion, variance: str, weights: str) -> StepCosts:
    """The costs in RUN/steps.json, which are measured on images of val if they are missing or of another model.

    Args:
        run: the run.
        model: its model with these weights.
        variance: the name of σ² of the steps.
        weights: ``ema`` or ``raw``.
    """
    images = run.dataset.split("val")[:IMAGES]
    key = {"data_sha256": run.dataset.sha256, "n": len(images), "reverse_variance": variance}
    key |= {"weights": weights, **digests(run, weights)}
    file = run.path / STEPS

    def found() -> bytes:
        records = read_records(file)
        text = next((record["costs"] for record in records if record["key"] == key), None)
        if text is None:
            with bar(f"costs of steps on {len(images):,} images of val", len(images)) as progress:
                costs = score_steps(with_variance(model, variance), images, progress=progress.move)
            text = to_json(costs)
            others = [r for r in records if r["key"]["weights_sha256"] == key["weights_sha256"]]
            replace_text(file, json.dumps([*others, {"key": key, "costs": text}]))
        return json.dumps(text).encode()

    return from_json(json.loads(join().from_main(found)))


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of steps.json; none if it is missing or damaged."""
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        return [each for each in records if {"key", "costs"} <= each.keys() and "weights_sha256" in each["key"]]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def to_json(costs: StepCosts) -> dict[str, list[float | None]]:
    """Costs as JSON values, with null for +∞."""
    return {
        name: [v if math.isfinite(v) else None for v in part.flatten().tolist()]
        for name, part in costs._asdict().items()
    }


def from_json(found: dict[str, list[float | None]]) -> StepCosts:
    """Costs from :func:`to_json`."""
    parts = {
        name: torch.tensor([math.inf if v is None else v for v in part], dtype=torch.float64)
        for name, part in found.items()
    }
    parts["steps"] = parts["steps"].reshape(len(parts["gammas"]), -1)
    return StepCosts(**parts)
