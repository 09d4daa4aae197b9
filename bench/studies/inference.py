"""Surrogates of a banana-shaped distribution, and the noise of gradient estimators. Writes docs/inference.md.

python bench/run.py inference
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from nelbo.rng import Draws
from nelbo.theory.surrogates import (
    FullRank,
    MeanField,
    Surrogate,
    elbo,
    fit,
    leave_one_out,
    log_evidence,
    reparameterised,
    score_function,
)

DOCS = Path(__file__).parents[2] / "docs"
ESTIMATORS = {"score function": score_function, "leave-one-out": leave_one_out, "reparameterised": reparameterised}
DIMS = (1, 2, 4, 8, 16, 32)
REACH = 6.0

PAGE = """# Surrogates

A surrogate q(Z) approximates a posterior p(Z|X=D) that is known up to its constant. `nelbo.theory.surrogates.fit`
finds the q with the largest ELBO, and hence the smallest KL(q‖p), because ln p(X=D) = ELBO + KL.

## A banana-shaped distribution
z_1 ~ N(0, 1), z_2 ~ N(½ z_1², ¼), so ln p(X=D) = 0 and KL = −ELBO. The KL is computed on a grid, the ELBO from
samples.

| surrogate | KL(q‖p), nats | ELBO ± s.e. | importance-weighted ln p ± s.e. |
| --- | --- | --- | --- |
{rows}

![contours](images/inference-banana.png)

A surrogate with one peak stays inside the banana: a missing tail costs little, a superfluous tail costs much. This
banana is symmetric in z_1, so a full covariance does not help. The importance weights correct the shape, but their
estimates are below the true value 0 by more than their standard errors, which are too small if q has lighter tails
than p.

## The noise of the gradient
p = N(0, I) in D dimensions, q = N(½, I), 16 samples: the variance of ∂ELBO/∂μ_1, over {repeats:,} estimates. All
three estimators have the same mean, −½.

| D | {names} |
| --- | --- | --- | --- |
{variances}

![variances](images/inference-variance.png)

The score function uses only the value of f = ln p − ln q, to which every dimension adds noise. The baseline removes
the mean of f, but not its variance. The reparameterised gradient of one coordinate does not depend on the others. In
one or two dimensions the score function has the smallest variance here; from eight on it has the largest by far.

`make inference` writes this page.
"""


def banana(z: Tensor) -> Tensor:
    """ln p(z) of the banana, normalised, shape (S,) for z of shape (S, 2)."""
    bend = z[:, 1] - 0.5 * z[:, 0].square()
    return -0.5 * z[:, 0].square() - 2 * bend.square() - math.log(math.pi)


def grid(n: int) -> tuple[Tensor, float]:
    """Points, shape (n², 2), with z_1 slowest, and the area of a cell."""
    along = torch.linspace(-REACH, REACH, n, dtype=torch.float64)
    return torch.cartesian_prod(along, along), (2 * REACH / (n - 1)) ** 2


@torch.no_grad()
def grid_divergence(q: Surrogate, n: int) -> float:
    """KL(q ‖ banana) on a grid of n × n, in nats; exact to round-off for smooth distributions within the grid."""
    points, cell = grid(n)
    log_q = q.log_prob(points)
    return float((log_q.exp() * (log_q - banana(points))).sum() * cell)


def gradient_variances(dims: int, repeats: int, count: int = 16) -> list[float]:
    """Variance of ∂ELBO/∂μ_1 for each estimator."""
    q = MeanField(torch.full((dims,), 0.5))
    found = []
    for estimate in ESTIMATORS.values():
        slopes = []
        for step in range(repeats):
            draws = Draws(0, step, range(count), count, torch.device("cpu"))
            # The constant of N(0, I) is kept: without it the plain score function would have another variance.
            value = estimate(lambda z: -0.5 * (z.square() + math.log(2 * math.pi)).sum(1), q, draws).value
            slopes.append(torch.autograd.grad(value, q.mean)[0][0])
        found.append(float(torch.stack(slopes).var()))
    return found


def draw_banana(surrogates: dict[str, Surrogate], out: Path) -> None:
    """Filled contours of the exact distribution, with those of each surrogate."""
    from matplotlib.figure import Figure

    n = 300
    points = grid(n)[0]
    x, y = points[:, 0].view(n, n), points[:, 1].view(n, n)
    inside = [math.exp(-0.5 * r * r) for r in (3, 2, 1)]
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    for axes, (name, q) in zip(figure.subplots(1, 2, sharey=True), surrogates.items(), strict=True):
        exact, density = banana(points).exp().view(n, n), q.log_prob(points).detach().exp().view(n, n)
        axes.contourf(x, y, exact, [float(exact.max()) * s for s in inside] + [float(exact.max())], cmap="Blues")
        axes.contour(x, y, density, [float(density.max()) * s for s in inside], colors="#b05030", linewidths=1.4)
        axes.set(title=f"{name}, KL = {grid_divergence(q, n):.3f} nats", xlabel="z₁", xlim=(-3.5, 3.5), ylim=(-2, 5))
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("z₂")
    figure.savefig(out, dpi=110)


def draw_variances(rows: list[list[float]], out: Path) -> None:
    """Variance against dimension, with a line for each estimator."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    colours = ("#b05030", "#c09030", "#3060a0")
    for name, values, colour in zip(ESTIMATORS, zip(*rows, strict=True), colours, strict=True):
        axes.plot(DIMS, values, "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(DIMS, [str(d) for d in DIMS])
    axes.set(xlabel="dimensions", ylabel="variance of ∂ELBO/∂μ₁")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def main(repeats: int = 1000) -> None:
    """Fit, measure, draw, and write the page."""
    (DOCS / "images").mkdir(parents=True, exist_ok=True)
    surrogates: dict[str, Surrogate] = {
        "mean-field": MeanField(torch.tensor([0.3, 0.5])),
        "full-rank": FullRank(torch.tensor([0.3, 0.5])),
    }
    lines = []
    for name, q in surrogates.items():
        for _ in fit(banana, q, steps=1500):
            pass
        bound, evidence = elbo(banana, q), log_evidence(banana, q)
        cells = f"{bound.value:.4f} ± {bound.stderr:.4f} | {evidence.value:.4f} ± {evidence.stderr:.4f}"
        lines.append(f"| {name} | {grid_divergence(q, 300):.4f} | {cells} |")
    draw_banana(surrogates, DOCS / "images" / "inference-banana.png")
    rows = [gradient_variances(dims, repeats) for dims in DIMS]
    draw_variances(rows, DOCS / "images" / "inference-variance.png")
    table = [f"| {d} | {' | '.join(f'{v:.3g}' for v in row)} |" for d, row in zip(DIMS, rows, strict=True)]
    page = PAGE.format(rows="\n".join(lines), variances="\n".join(table), names=" | ".join(ESTIMATORS), repeats=repeats)
    (DOCS / "inference.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
