"""Every form of the bound, for the exact denoiser and for trained runs. Writes docs/agreement.md.

NELBO_DATA=… make agreement          (trains a ddpm on digits and one on MNIST, then scores images in every form)
python bench/run.py forms RUN…           prints the table of these runs instead, and writes nothing

If an estimate takes E evaluations and has variance V (of one image, in nats², averaged over images), a budget of N
evaluations gives an error with variance V·E/N. So V·E compares forms with different numbers of evaluations.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import nelbo
from nelbo.diffusion.consistency import Three, consistency_log_ratio, consistency_term, neighbours
from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.entropy import entropy_terms
from nelbo.diffusion.process import diffuse, noise_rate
from nelbo.diffusion.schedules import LinearBeta, chain_of
from nelbo.diffusion.trajectory import trajectory_terms
from nelbo.diffusion.variances import VARIANCES, ReverseVariance
from nelbo.jobs.run import Run
from nelbo.metrics import LikelihoodScore, score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.models.diffusion import in_steps
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import Coefficients, GaussianData
from nelbo.theory.normal import Gaussian

DOCS = Path(__file__).parents[2] / "docs"
BOUNDS = ("denoising", "consistency", "trajectory")
T = 100
"""Steps of the runs on the page."""
RECIPE: dict[str, Any] = {"timesteps": T, "reverse_variance": "beta_tilde"}
K = 4
"""Trajectories in one logarithm of the importance-weighted bound."""

PAGE = """# Agreement of the forms of the bound

The three bounds have the same expectation for every image, but each is computed from its own equation
([forms.md](forms.md)). `make agreement` writes this page.

## The exact denoiser, in closed form
x_0 = 0.7 of N(0, 1) data, the exact denoiser, linear β, T = 1,000; exact expectations in nats.

| form | σ² = β | σ² = β̃ |
| --- | --- | --- |
{oracle}

With σ² = β the exact denoiser gives the exact reverse process, and the bound is −ln p. The row for trajectories is
the mean of 300. The entropy form is averaged over the data, where E x_0² = 1, with its own decoder p(x_0|x_1) =
N(√α_1 x_1, β_1): then Δ = 0, and for σ² = β it is the data's entropy, ½ ln 2πe = 1.4189.

## Trained runs
All forms use the same images, each with its own noise, so that the first three differ only by chance; ± is the Monte
Carlo error for these images. V·E is the variance of an estimate of one image times its number of evaluations,
relative to the default's.

{runs}

![The variance of each form per network evaluation](images/forms-variance.png)

`iw` is a tighter bound. `entropy` has no decoder and is not a bound. The two `ode` forms estimate the likelihood of
another model, the probability flow, which can be larger or smaller than the bounds.

## Variance with the exact denoiser
One estimate with every t once, x_0 = 0.7, T = 1,000, in nats², from 300 estimates, with an error of about 8%. The
noise at different t is independent, except along a trajectory.

| form | σ² = β | σ² = β̃ |
| --- | --- | --- |
{variances}

Notes say that conditioning on x_0 avoids a high variance. This is true if each t has its own noise: the consistency
form has the variance of two random neighbours at each t, the denoising form that of one. Along a whole trajectory the
terms are correlated, and their noise cancels; with σ² = β on these data it cancels exactly, because both joint
distributions are equal.
"""


# The oracle


def oracle_expectations(T: int = 1000) -> dict[str, list[float]]:
    """Form → exact expectation for each of σ² = β and σ² = β̃, for x_0 = 0.7 of N(0, 1) data; and −ln p."""
    gammas, data = chain_of(LinearBeta().grid(T)), GaussianData(torch.zeros(1), torch.eye(1))
    x_0 = torch.full((1, 1), 0.7, dtype=torch.float64)
    found: dict[str, list[float]] = {"−ln p": [], "denoising": [], "consistency": [], "entropy, over the data": []}
    for name in ("beta", "beta_tilde"):
        table = getattr(Coefficients(gammas), name)
        found["−ln p"].append(-float(data.log_prob(x_0)))
        found["denoising"].append(sum(float(term) for term in data.bound(gammas, table, x_0).values()))
        found["consistency"].append(sum(float(term) for term in data.consistency(gammas, table, x_0).values()))
        # Averaged over the data y² = λ, and E x_0² = 1 stands for x_0².
        one = torch.ones(1, 1, dtype=torch.float64)
        diffusion = data.bound(gammas, table, one)["diffusion"]
        found["entropy, over the data"].append(float(diffusion + sum(entropy_terms(gammas, one).values())))
    return found


def oracle_variances(data: GaussianData, gammas: Tensor, variance: ReverseVariance, x_0: Tensor) -> dict[str, float]:
    """Form → variance over the rows of x_0, which are equal images; each t has its own noise."""
    denoise, rows = denoiser_of(data.denoise), noise_for(x_0, 1)
    sums = {name: torch.zeros(len(x_0), dtype=torch.float64) for name in ("denoising", "integrated", "sampled")}
    for t in range(2, len(gammas)):
        gamma, eps = Three(*(gammas[at].expand(len(x_0)) for at in (t - 2, t - 1, t))), next(rows)
        denoised = denoise(diffuse(x_0, gamma.next, eps), gamma.next)
        sums["denoising"] += variance.diffusion_term(denoised, eps, gamma.here, gamma.next)
        x_prev, x_t, x_next = neighbours(x_0, gamma, (next(rows), next(rows), next(rows)))
        reverse = variance.step(denoise(x_next, gamma.next), x_next, gamma.here, gamma.next)
        sums["integrated"] += consistency_term(reverse, x_prev, x_next, gamma)
        sums["sampled"] += consistency_log_ratio(reverse, x_prev, x_t, gamma)
    return {
        "denoising": float(sums["denoising"].var()),
        "consistency, x_t integrated out": float(sums["integrated"].var()),
        "consistency, x_t sampled": float(sums["sampled"].var()),
    }


def oracle_trajectories(data: GaussianData, gammas: Tensor, variance: ReverseVariance, x_0: Tensor) -> Tensor:
    """ln q(x_{1:T}|x_0) − ln p(x_{0:T}) of one trajectory for each row of x_0, in nats."""
    denoise, first = denoiser_of(data.denoise), gammas[1].expand(len(x_0))

    def decode(x_1: Tensor) -> Tensor:
        return -Gaussian(denoise(x_1, first).x_0, noise_rate(gammas[1]).square()).log_prob(x_0).sum(1)

    def step(x_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        return variance.step(denoise(x_t, gamma_t), x_t, gamma_s, gamma_t)

    return torch.stack(list(trajectory_terms(gammas, step, decode, x_0, noise_for(x_0, 2)).values())).sum(0)


def noise_for(x_0: Tensor, seed: int) -> Iterator[Tensor]:
    """Standard normal noise of the shape of x_0, float64, an infinite iterator."""
    draws = Draws(seed, 0, range(len(x_0)), len(x_0), x_0.device)
    return (row.double() for row in draws.normal_iter(Stream.SCORE_NOISE, tuple(x_0.shape[1:])))


def oracle_page(n: int = 300, T: int = 1000) -> dict[str, str]:
    """The two tables for the exact denoiser."""
    gammas, data = chain_of(LinearBeta().grid(T)), GaussianData(torch.zeros(1), torch.eye(1))
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    variances = [VARIANCES[name] for name in ("beta", "beta_tilde")]
    columns = [oracle_variances(data, gammas, variance, x_0) for variance in variances]
    totals = [oracle_trajectories(data, gammas, variance, x_0) for variance in variances]
    means = " | ".join(f"{float(total.mean()):.4f} ± {float(total.std()) / n**0.5:.4f}" for total in totals)
    for column, total in zip(columns, totals, strict=True):
        column["trajectory"] = float(total.var())
    exact = [f"| {name} | {row[0]:.4f} | {row[1]:.4f} |" for name, row in oracle_expectations(T).items()]
    return {
        "oracle": "\n".join([*exact[:-1], f"| trajectory | {means} |", exact[-1]]),
        "variances": "\n".join(f"| {name} | {columns[0][name]:.2g} | {columns[1][name]:.2g} |" for name in columns[0]),
    }


# Trained runs


class Measured(NamedTuple):
    """One form on one run.

    Attributes:
        form: its name, with the number of t.
        kind: the kind of its number.
        score: all estimates.
        evaluations: network evaluations for one estimate of an image.
    """

    form: str
    kind: str
    score: LikelihoodScore
    evaluations: int

    @property
    def variance(self) -> float:
        """V, in nats²."""
        return float(self.score.estimates().var(1).mean())


def measured(run: Run, limit: int, replicates: int, T: int | None, forms: Sequence[str] = ()) -> list[Measured]:
    """Every form on the first test images of a run; sums over t with a few t, and with all."""
    model, images = run.model("ema", "auto"), run.dataset.split("test")[:limit]
    assert isinstance(model, LikelihoodModel)
    model = model if T is None else in_steps(model, T)
    found = []
    for seed, (name, form) in enumerate(model.forms.items()):
        if forms and name not in forms:
            continue
        every = [model.forms.default_timesteps, model.forms.all_timesteps] if form.counts == "timesteps" else [None]
        for timesteps in every:
            score = score_likelihood(
                model, images, form=name, timesteps=timesteps, replicates=replicates, seed=seed, k=K
            )
            label = f"{name}, {timesteps:,} t" if timesteps else f"{name}, k = {K}" if form.counts == "k" else name
            found.append(Measured(label, form.kind, score, score.evaluations // replicates))
            print(f"{label}: {score.bits():.4f} ± {score.stderr_mc():.4f}", flush=True)
    return found


def model_steps(found: Sequence[Measured]) -> int:
    """T, the evaluations of a trajectory."""
    return next(row.evaluations for row in found if row.form == "trajectory")


def disagreement(found: Sequence[Measured]) -> float:
    """The largest difference between two of the three bounds with every t, in combined Monte Carlo errors."""
    whole = [row for row in found if row.form.split(",")[0] in BOUNDS and row.evaluations >= model_steps(found)]
    return max(
        abs(a.score.bits() - b.score.bits()) / math.hypot(a.score.stderr_mc(), b.score.stderr_mc())
        for a, b in combinations(whole, 2)
    )


def run_page(title: str, found: Sequence[Measured]) -> str:
    """The table of one run."""
    base = found[0].variance * found[0].evaluations
    lines = [
        f"### {title}, {found[0].score.n} test images",
        "| form | kind | evaluations E | bits/dim | ± s.e. (mc) | V, nats² | V·E, relative |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        relative = row.variance * row.evaluations / base
        cells = (row.form, row.kind, f"{row.evaluations:,}", f"{row.score.bits():.4f}", f"{row.score.stderr_mc():.4f}")
        lines.append(f"| {' | '.join(cells)} | {row.variance:.3g} | {relative:.3g} |")
    lines.append(f"\nWith every t, the three bounds differ by at most {disagreement(found):.1f} combined errors.")
    return "\n".join(lines)


def draw(results: dict[str, list[Measured]], out: Path) -> None:
    """V·E of every form as a bar, with one panel for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.32 * max(len(rows) for rows in results.values())), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        names = [row.form for row in rows][::-1]
        axes.barh(names, [row.variance * row.evaluations for row in rows][::-1], color="#4878a8")
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("variance × evaluations, nats²", fontsize=9)
        axes.tick_params(labelsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Train missing runs, score them with every form, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", help="directories that 'train' made; the page, if left out")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--T", type=int, help="score a vdm in so many steps")
    parser.add_argument("--runs", type=Path, default=Path("runs/agreement"))
    asked = parser.parse_args(argv)
    if asked.run:
        for path in asked.run:
            print(run_page(path, measured(Run(path), asked.limit, asked.replicates, asked.T)))
        return
    results = {}
    for data, limit in (("digits", 100), ("mnist", 32)):
        run = nelbo.train("ddpm", data, out=asked.runs / data, steps=1500, resume=True, **RECIPE)
        results[f"ddpm on {data}, T = {T}"] = measured(run, limit, asked.replicates, None)
    draw(results, DOCS / "images" / "forms-variance.png")
    runs = "\n\n".join(run_page(title, found) for title, found in results.items())
    (DOCS / "agreement.md").write_text(PAGE.format(runs=runs, **oracle_page()), encoding="utf-8")


if __name__ == "__main__":
    main()
