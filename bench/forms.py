"""What each form of the bound costs: the variance of its estimate per network evaluation, on a given run.

python bench/forms.py RUN [--split test] [--limit 100] [--replicates 16] [--timesteps K …]
python bench/forms.py              x_0 = 0.7 of N(0, 1) data with the exact denoiser, linear β, T = 1000

An estimate that takes E evaluations and has variance V (of one image, in nats², averaged over images) has the error of
a budget of N evaluations V·E/N: so V·E compares forms that ask the network for different numbers of t.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nelbo.analytic import GaussianData
from nelbo.bounds import (
    VARIANCES,
    ReverseVariance,
    consistency_log_ratio,
    consistency_term,
    neighbours,
    trajectory_terms,
)
from nelbo.diffusion import Gaussian, Process
from nelbo.jobs.run import Run
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel
from nelbo.rng import Draws, Stream
from nelbo.schedules import linear


def oracle(n: int = 300, T: int = 1000) -> None:
    """Print the variance of each form's estimate of the sum over t, every t once, from n estimates."""
    process, data = Process(linear(T)), GaussianData(torch.zeros(1), torch.eye(1))
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    table = Table(title=f"variance in nats² of one estimate, T = {T}")
    names = ("beta", "beta_tilde")
    for name in ("form", *(f"σ² = {variance}" for variance in names)):
        table.add_column(name, justify="left" if name == "form" else "right")
    columns = [oracle_variances(data, process, VARIANCES[name], x_0) for name in names]
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:.3g}" for column in columns))
    Console(width=120).print(table)


def oracle_variances(data: GaussianData, process: Process, variance: ReverseVariance, x_0: Tensor) -> dict[str, float]:
    """Form → variance over the rows of x_0, which are one image. Each t has draws of its own, but for trajectories."""
    denoise, beta_1 = data.denoiser(process), process.schedule.beta[1]

    def noise(seed: int) -> Iterator[Tensor]:
        draws = Draws(seed, 0, range(len(x_0)), len(x_0), x_0.device)
        return (row.double() for row in draws.normals(Stream.SCORE_NOISE, tuple(x_0.shape[1:])))

    def decode(x_1: Tensor) -> Tensor:
        mean = denoise(x_1, torch.ones(len(x_1), dtype=torch.long)).x_0
        return -Gaussian(mean, beta_1).log_prob(x_0).sum(1)

    def step(x_t: Tensor, t: Tensor) -> Gaussian:
        return variance.step(process, denoise(x_t, t), x_t, t)

    sums = {name: torch.zeros(len(x_0), dtype=torch.float64) for name in ("denoising", "integrated", "sampled")}
    rows = noise(1)
    for at in range(2, process.schedule.T + 1):
        t = torch.full((len(x_0),), at)
        eps = next(rows)
        denoised = denoise(process.diffuse(x_0, t, eps), t)
        sums["denoising"] += variance.diffusion_term(process, denoised, eps, t)
        x_prev, x_t, x_next = neighbours(process, x_0, t - 1, (next(rows), next(rows), next(rows)))
        reverse = variance.step(process, denoise(x_next, t), x_next, t)
        sums["integrated"] += consistency_term(process, reverse, x_prev, x_next, t - 1)
        sums["sampled"] += consistency_log_ratio(process, reverse, x_prev, x_t, t - 1)
    whole = torch.stack(list(trajectory_terms(process, step, decode, x_0, noise(2)).values())).sum(0)
    return {
        "denoising": float(sums["denoising"].var()),
        "consistency, x_t integrated out": float(sums["integrated"].var()),
        "consistency, x_t sampled": float(sums["sampled"].var()),
        "trajectory": float(whole.var()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Score with every form, print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="the directory that 'train' made; the oracle, if left out")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--replicates", type=int, default=16)
    parser.add_argument(
        "--timesteps", type=int, nargs="*", help="t per estimate; the family's default and all, if left out"
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if args.run is None:
        oracle()
        return
    run = Run(args.run)
    images, model = run.dataset.split(args.split)[: args.limit], run.model("ema", args.device)
    assert isinstance(model, LikelihoodModel)
    asked = args.timesteps or [k for k in (model.default_timesteps, model.all_timesteps) if k is not None]
    table = Table(title=f"{len(images)} images of {args.split}, {args.replicates} replicates")
    for name in ("form", "evaluations E", "bits/dim", "± s.e. (mc)", "variance V, nats²", "V·E", "of denoising's"):
        table.add_column(name, justify="left" if name == "form" else "right")
    base: float | None = None
    for name, form in model.forms.items():
        for timesteps in asked if form.counts == "timesteps" else asked[-1:]:
            score = score_likelihood(
                model, images, timesteps=timesteps, replicates=args.replicates, form=name, seed=len(name)
            )
            evaluations = score.evaluations // args.replicates
            variance = float(score.estimates().var(1).mean())
            base = base or variance * evaluations
            table.add_row(
                name,
                str(evaluations),
                f"{score.bits():.4f}",
                f"{score.stderr_mc():.4f}",
                f"{variance:.4g}",
                f"{variance * evaluations:.4g}",
                f"{variance * evaluations / base:.3g}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
