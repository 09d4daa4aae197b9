"""Comparison of all objectives and schedules: gradient, bits/dim, samples. Writes docs/weights.md.

python bench/run.py weights [--steps 1000] [--data digits]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import nelbo
from nelbo.diffusion.objectives import OBJECTIVES
from nelbo.diffusion.schedules import SCHEDULES
from nelbo.jobs.features import usual_place
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.options import DataOptions
from nelbo.rng import Draws, Stream

DOCS = Path(__file__).parents[2] / "docs"
WIDTHS = (32, 32)
CUTS = (-4.0, 0.0)
"""Limits of γ for the shares of the gradient: little, middle and much noise."""
WORDS = {
    "bound": ("1", "any"),
    "hybrid": ("1 + 10 p(γ)", "the schedule's p(γ), and any"),
    "simple": ("2 p(γ)", "the schedule's p(γ)"),
    "min_snr": ("2 p(γ) min(1, 5 e^γ)", "the schedule's p(γ)"),
    "max_snr": ("2 p(γ) max(1, e^γ)", "the schedule's p(γ)"),
    "sigmoid": ("sigmoid(γ + 2)", "any"),
    "edm": ("2 N(γ; −2.4, 2.4²)(4 e^γ + 1)", "N(−2.4, 2.4²)"),
    "flow_matching": ("e^{γ/2}", "t uniform, γ = 2 ln(t/(1 − t))"),
}

PAGE = """# Comparison of objectives and schedules

Every diffusion objective is a weight w(γ) on the integrand of the bound, ½ ∫ w(γ) E‖ε − ε̂‖² dγ with γ = −ln SNR
(Kingma & Gao 2023); they are in `nelbo.diffusion.objectives`. If w is non-decreasing in γ, the objective is a bound
of images with added noise. p(γ) = 1/γ′(t) is the density of γ for uniform t.

`make weights`: {data}, {steps:,} steps of 32 images with a network of two levels of 32 channels, in continuous time
with prediction v and one seed; γ from {low:.1f} to 8. bits/dim of {n} test images, ± their standard error; KD × 1,000
between 1,000 samples (default sampler) and the test images, in features of a classifier, ± its standard error. The
column "a bound" shows what the objective bounds. Shares are those of w(γ) E‖ε − ε̂‖² at the end of the run with
`bound`, at γ < −4 (little noise), −4 < γ < 0, and γ > 0 (much noise).

## Objectives, with the cosine schedule

| objective | w(γ) | γ drawn from | a bound | shares of the gradient | bits/dim | KD × 1,000 |
| --- | --- | --- | --- | --- | --- | --- |
{objectives}

## Schedules, with the bound as the objective

In continuous time the bound does not depend on the schedule between its ends. The schedule changes the distribution
of t, and the steps of a sampler.

| schedule | γ(t) | share of t below −4, to 0, above | bits/dim | KD × 1,000 |
| --- | --- | --- | --- | --- |
{schedules}
"""
CURVES = {
    "linear": "ᾱ = exp(−(0.1 t + 9.95 t²))",
    "cosine": "ᾱ = cos²(π/2 · (t + s)/(1 + s)), s = 0.008, rescaled",
    "sigmoid": "ᾱ ∝ sigmoid(3) − sigmoid(6t − 3)",
    "linear_gamma": "γ_0 + (γ_1 − γ_0) t",
    "learned": "γ_0 + (γ_1 − γ_0) n(t), n learned",
    "karras": "2 ln σ, σ^{1/7} even in t",
    "rectified_flow": "2 ln(t/(1 − t))",
}


class Row(NamedTuple):
    """The result of one run: bits/dim and KD, each with its error."""

    bits: str
    kd: str
    model: Diffusion


def measured(run: nelbo.Run, features: Path) -> Row:
    """The bound of the test images, and the distance of samples to them."""
    score = run.score()
    found = run.evaluate(samples=1000, features=features)
    kd = next(measure for name, measure in found.quality.items() if name.startswith("KD"))
    model = run.model()
    assert isinstance(model, Diffusion)
    return Row(
        f"{score.bits_per_dim:.3f} ± {score.stderr:.3f}",
        f"{1e3 * kd.value:.1f} ± {1e3 * (kd.stderr or 0.0):.1f}",
        model,
    )


@torch.no_grad()
def errors(model: Diffusion, images: Tensor) -> tuple[Tensor, Tensor]:
    """Evenly spaced γ, and the mean of ‖ε − ε̂‖² there."""
    bound = bound_of(model)
    draws = Draws(1, 0, range(len(images)), len(images), model.device)
    gammas = torch.linspace(bound.first, bound.last, 60, dtype=torch.float64)
    x_0 = images.double() * (2.0 / (model.levels - 1)) - 1
    noise, found = draws.normal_iter(Stream.SCORE_NOISE, model.shape), []
    for gamma in gammas:
        eps, at = next(noise).double(), gamma.expand(len(images))
        signal, rate = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        eps_hat = bound.denoise(signal * x_0 + rate * eps, at).eps
        found.append((eps - eps_hat).square().flatten(1).sum(1).mean())
    return gammas, torch.stack(found)


def shares(mass: Tensor, gamma: Tensor) -> str:
    """Percentages of the mass below −4, from −4 to 0, and above 0."""
    low, high = CUTS
    parts = (gamma < low, (gamma >= low) & (gamma < high), gamma >= high)
    return ", ".join(f"{100 * float(mass[part].sum() / mass.sum()):.0f}%" for part in parts)


def trained(name: str, asked: argparse.Namespace, **options: Any) -> nelbo.Run:
    """The run with this name, trained if it does not exist."""
    out = asked.runs / name
    return nelbo.train("diffusion", asked.data, out=out, steps=asked.steps, widths=WIDTHS, resume=True, **options)


def main() -> None:
    """Train, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--runs", type=Path, default=Path("runs/weights"))
    asked = parser.parse_args()
    runs = {name: trained(f"objective-{name}", asked, schedule="cosine", objective=name) for name in OBJECTIVES}
    dataset = runs["bound"].dataset
    features = usual_place(dataset.name, dataset.sha256)
    if not features.exists():
        nelbo.features(DataOptions(data=asked.data))
    rows = {name: measured(run, features) for name, run in runs.items()}
    base = rows["bound"].model
    gamma, error = errors(base, dataset.split("val")[:128])
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    curve, slope = base.timeline.curve(t)
    there = torch.searchsorted(curve, gamma).clamp(max=len(t) - 1)
    lines = []
    for name, row in rows.items():
        objective, (weight, density) = OBJECTIVES[name](), WORDS[name]
        of_noised = "of noised images" if objective.is_monotone(curve, slope) else "no"
        what = "of images" if name == "bound" else of_noised
        mass = objective.weight(gamma, slope[there]) * error
        cells = [f"`{name}`", weight, density, what, shares(mass, gamma), row.bits, row.kd]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    others = []
    for name in SCHEDULES:
        run = trained(f"schedule-{name}", asked, schedule=name) if name != "cosine" else runs["bound"]
        row = measured(run, features)
        curve = row.model.timeline.gamma(t)
        cells = [f"`{name}`", CURVES[name], shares(torch.ones_like(curve), curve), row.bits, row.kd]
        others.append(f"| {' | '.join(cells)} |")
        print(others[-1], flush=True)
    page = PAGE.format(
        data=asked.data,
        steps=asked.steps,
        low=bound_of(base).first,
        n=len(dataset.split("test")),
        objectives="\n".join(lines),
        schedules="\n".join(others),
    )
    (DOCS / "weights.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
