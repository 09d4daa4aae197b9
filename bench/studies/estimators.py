"""Estimators of a VDM's bound with few network evaluations. Writes docs/estimators.md.

python bench/run.py estimators RUN [--limit 200] [--replicates 8]       RUN: a vdm in continuous time

If an estimate of an image takes E evaluations and has variance V, the error for N images is √(V/N), at a cost of E·N
evaluations. So V·E compares the costs of an error for all E.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nelbo.diffusion.bound import ContinuousBound
from nelbo.diffusion.process import diffuse
from nelbo.diffusion.variances import squared_error
from nelbo.jobs.run import Run
from nelbo.models._diffusion_clusters import shown_clusters, with_cluster_term
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.vdm import VDM
from nelbo.rng import Draws, Stream
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_unit
from nelbo.units import bits_per_dim

DOCS = Path(__file__).parents[2] / "docs"
IMAGES, TARGET = 10_000, 0.005

PAGE = """# Network evaluations for a given error: estimators of a VDM's bound

`{command}`: the first {n} test images of {data}, {replicates} estimates of each. V is the variance of an estimate of
an image, averaged over images, and V·E its cost. The last column is the number of evaluations per image for which
{images:,} images have a Monte Carlo error of ± {target} bits/dim; below 1, a part of the images would suffice.

| t | noise | t per estimate | E | bits/dim | V·E, nats² | relative | evaluations per image for ± {target} |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

- *Uniform*: t is uniform on [0, 1]. *Profile*: t is drawn in proportion to the root mean square of the loss at t, as
  learned in training (Nichol & Dhariwal 2021, section 3.3). *Stratified*: one t from each of K equal strata of that
  distribution. *Antithetic t*: pairs t and 1 − t. *Antithetic noise*: the same t twice, with ε and −ε.
- The reconstruction needs one evaluation per estimate, and has little variance. So estimates with many t are cheaper,
  as long as their strata are sufficiently independent.
- The cheapest here is **{best}**. `nelbo score` uses the profile, stratified, with {default} t and two replicates.
  This is more than the target needs, but gives the error of each image too. With `--timesteps 1` it needs 4
  evaluations for each image.
- A comparison of two runs uses the same random numbers (`--baseline`). The error of the difference is smaller,
  because the common noise cancels.
"""

Times = Callable[[VDM, Tensor], tuple[Tensor, Tensor]]
"""(model, uniforms of shape (B, K, 2)) → t and its weight, float64, shape (B, K)."""


def uniform(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """Independent and uniform."""
    return u[:, :, 0], torch.full_like(u[:, :, 0], 1.0 / u.shape[1])


def uniform_stratified(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """One in each of K equal intervals of [0, 1]."""
    K = u.shape[1]
    return (torch.arange(K, dtype=torch.float64) + u[:, :, 0]) / K, torch.full_like(u[:, :, 0], 1.0 / K)


def uniform_antithetic(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs t and 1 − t."""
    half = u[:, : u.shape[1] // 2, 0]
    t = torch.cat([half, 1 - half], 1)
    return t, torch.full_like(t, 1.0 / t.shape[1])


def drawn_by_profile(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """t from the loss profile, and its weight."""
    bound = bound_of(model)
    assert isinstance(bound, ContinuousBound)
    return bound.times(u)


def profile_independent(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """From the loss profile, independently."""
    columns = [drawn_by_profile(model, u[:, k : k + 1]) for k in range(u.shape[1])]
    t, share = (torch.cat(part, 1) for part in zip(*columns, strict=True))
    return t, share / u.shape[1]


def profile_stratified(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """From the loss profile, stratified."""
    return drawn_by_profile(model, u)


def profile_twice(model: VDM, u: Tensor) -> tuple[Tensor, Tensor]:
    """From the loss profile, stratified, with half as many t, each twice."""
    t, share = drawn_by_profile(model, u[:, : u.shape[1] // 2])
    return torch.cat([t, t], 1), torch.cat([share, share], 1) / 2


ROWS: tuple[tuple[str, str, Times, int], ...] = (
    ("uniform", "independent", uniform, 8),
    ("uniform, antithetic", "independent", uniform_antithetic, 8),
    ("uniform, stratified", "independent", uniform_stratified, 8),
    ("profile", "independent", profile_independent, 8),
    ("profile, stratified", "antithetic", profile_twice, 8),
    ("profile, stratified", "independent", profile_stratified, 1),
    ("profile, stratified", "independent", profile_stratified, 4),
    ("profile, stratified", "independent", profile_stratified, 8),
    ("profile, stratified", "independent", profile_stratified, 16),
)


@torch.no_grad()
def estimate(model: VDM, x: Tensor, draws: Draws, times: Times, K: int, antithetic: bool) -> Tensor:
    """One estimate of each image's bound without its prior, which needs no evaluation, in nats, shape (B,)."""
    x_0 = to_unit(x, model.levels)
    eps = draws.normal(Stream.SCORE_NOISE, (K + 1, *model.shape))
    if antithetic:
        eps = torch.cat([eps[:, :1], eps[:, 1 : 1 + K // 2], -eps[:, 1 : 1 + K // 2]], 1)
    bound = bound_of(model)
    total = bound.decode(x, diffuse(x_0, bound.at(bound.first, x), eps[:, 0]))
    t, share = times(model, draws.uniform(Stream.SCORE_TIME, (K, 2)))
    for k in range(K):
        gamma, slope = model.schedule(t[:, k])
        noise = eps[:, k + 1]
        error = squared_error(noise, model.denoiser(diffuse(x_0, gamma, noise), gamma).eps).double()
        total += share[:, k] * 0.5 * slope * error
    return total


def measure(model: VDM, images: Tensor, times: Times, K: int, antithetic: bool, replicates: int) -> Tensor:
    """Estimates of the bound, with the cost of the cluster that the network sees, shape (n, replicates)."""
    x = images.to(model.device)
    told = shown_clusters(model, x)
    assert isinstance(told, VDM)
    name = with_cluster_term(model, x, Bound({"bound": torch.zeros(len(x), dtype=torch.float64)})).total
    columns = []
    for replicate in range(replicates):
        draws = Draws(0, replicate, range(len(images)), len(images), model.device)
        columns.append(estimate(told, x, draws, times, K, antithetic) + name)
    return torch.stack(columns, 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=8)
    asked = parser.parse_args(argv)
    run = Run(asked.run)
    images, model = run.dataset.split("test")[: asked.limit], run.model("ema", "auto")
    assert isinstance(model, VDM)
    found = []
    for name, noise, times, K in ROWS:
        y = measure(model, images, times, K, noise == "antithetic", asked.replicates)
        found.append((name, noise, K, bits_per_dim(float(y.mean()), model.dims), float(y.var(1).mean()) * (K + 1)))
        print(*found[-1], flush=True)
    reference = next(price for name, noise, K, _, price in found if (name, noise, K) == ("uniform", "independent", 8))
    target = TARGET * model.dims * math.log(2)
    rows = [
        f"| {name} | {noise} | {K} | {K + 1} | {bits:.4f} | {price:.3g} | {price / reference:.3f} "
        f"| {price / IMAGES / target**2:.2f} |"
        for name, noise, K, bits, price in found
    ]
    cheapest = min(found, key=lambda row: row[-1])
    page = PAGE.format(
        command="python bench/run.py estimators RUN",
        data=run.config.images.name,
        n=len(images),
        replicates=asked.replicates,
        images=IMAGES,
        target=TARGET,
        rows="\n".join(rows),
        best=f"{cheapest[0]}, noise {cheapest[1]}, {cheapest[2]} t",
        default=model.forms.default_timesteps,
    )
    (DOCS / "estimators.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
