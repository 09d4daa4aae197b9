"""Methods of editing against exact conditional laws, by network evaluations. Writes docs/editing.md.

    python bench/run.py editing [RUN …] [--samples 1000] [--images 32]

The oracles are Gaussian data and a mixture of two Gaussians, of 4 × 4 pixels with smooth images. RUN, a ddpm or vdm,
adds a table of imputation on its test split; without any, these tables of the page stay.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoiser, denoiser_of
from nelbo.diffusion.named import from_words
from nelbo.diffusion.schedules import as_schedule, chain_of
from nelbo.diffusion.spacing import descending
from nelbo.editing.constraints import BlockMeans, Constraint, Mask, Seen
from nelbo.editing.methods import Method
from nelbo.editing.particles import METHODS
from nelbo.jobs.edit import edit
from nelbo.jobs.run import Run
from nelbo.metrics.imputation import hidden_bits
from nelbo.rng import Draws
from nelbo.theory.conditioning import MixtureConditional, MixtureData, kl_gaussian
from nelbo.theory.exact import GaussianData
from nelbo.theory.likelihoods import to_unit

PAGE = Path(__file__).parents[2] / "docs" / "editing.md"
SIDE = 4
SHAPE, D = (1, SIDE, SIDE), SIDE * SIDE
BUDGETS = (50, 200, 800, 3200)
WAYS = (
    "replacement(resamplings=1)",
    "replacement",
    "guidance",
    "moments",
    "moments(sampler='dpm++')",
    "particles(particles=16, iterations=0)",
    "particles",
    "particles(particles=32)",
)
LEAST = 0.02
"""A mode with a smaller fraction of the samples has no measured covariance."""
MARGINAL = 200
"""Training images that are taken as draws."""
SETTINGS = {
    "moments": 50,
    "moments(sampler='dpm++')": 50,
    "guidance": 100,
    "replacement": 20,
    "particles(particles=2)": 33,
}
"""Methods of imputation on a run, with the steps of about 200 evaluations."""

TEXT = """# Editing: methods against exact conditional laws

`nelbo edit RUN inpaint` and `upscale` draw x_0 given A x_0 = y. {{py:mod}}`nelbo.editing.methods` has the equations.
Here the denoiser is exact, so that all errors are those of the methods.

- **replacement** (RePaint) is biased: the noise of the seen part does not depend on the drawn part. Resampling reduces
  the bias, and costs as many evaluations more.
- **guidance** (ΠGDM) is biased, unless pixels are independent with variance 1: it takes the errors of x̂_0 as
  independent between pixels.
- **moments** is exact for Gaussian data and many steps. It is biased where p(x_0|z) has several modes: their weights
  are wrong.
- **particles** is exact in the limit of many particles and steps, and there the only one that draws modes as often as
  it should; at the budgets below it is still biased. Each step takes the evaluations of all particles.

No method changes what is seen; `upscale` rounds every pixel to a level, hence the reduced image may differ by half a
level.

## The table
{n:,} samples for each row; 4 × 4 pixels of smooth images, cosine schedule. Masks hide the right half, block means are
those of 2 × 2 pixels. An evaluation is a call of the network for one image, or a product with its Jacobian. Errors of
the mean and the covariance are norms over what is hidden, divided by the exact standard deviation or covariance norm.
KL is that of normal distributions with the samples' moments to the exact ones, in nats; for the mixture, of mode and
image together. A sample of {n:,} from the exact law has about {floor}.

{tables}

## The default
`moments`, with 50 steps: 200 evaluations. {default}

`dpm++` is deterministic, and has the smaller error with an exact denoiser and 200 evaluations. `moments` takes `ddim`
all the same, because a network has errors that only noise corrects: with `dpm++`, holes in photographs were filled with
colours that do not fit what is seen. In the tables of runs below the two differ by less than their errors.

For several plausible completions, and 3,200 evaluations or more for each image, `particles` has the smallest error of
the mixture.

## The weight of a mode
The mixture with the mask has the exact weights {weights}. Drawn at the largest budget:

| method | weight of the first mode |
| --- | --- |
{modes}

{imputation}

`make editing` writes this page.
"""
IMPUTATION = """## Imputation on runs
`{command}`: the right
half of {n} test images, {draws} draws of each. Mean squared error of the hidden pixels on [−1, 1], ± its standard
error over images. The mean of many draws estimates the conditional mean, which has the smallest error that is
possible. A draw from the exact law has twice the error of that mean. Bits are those of each hidden pixel by the law
that its draws make ({{py:mod}}`nelbo.metrics.imputation`): the length of a code of these pixels one by one. Training
images as draws are the law of each pixel without what is seen.

{runs}

A network's errors are not those of an exact denoiser, so that the order of the methods on a run can differ from that of
the tables above.
"""
OF_RUN = """### A {family} on {data}, {step:,} steps
| method | evaluations | mean of the draws | one draw | bits of a hidden pixel |
| --- | --- | --- | --- | --- |
{rows}

The smallest error of one draw here: `{best}`.
"""
FOUND = re.compile(r"^## Imputation on runs\n.*?(?=\n`make editing`)", re.MULTILINE | re.DOTALL)


class Oracle(NamedTuple):
    """Data with an exact denoiser, and what is seen of one image."""

    name: str
    data: MixtureData
    constraint: Constraint
    x: Tensor

    @property
    def matrix(self) -> Tensor:
        """A, shape (m, D)."""
        rows = self.constraint.measure(torch.eye(D, dtype=torch.float64).reshape(D, *SHAPE)).flatten(1).T
        return rows[rows.abs().sum(1) > 0]

    @property
    def exact(self) -> MixtureConditional:
        """The law given what is seen."""
        return self.data.conditional(self.matrix, self.matrix @ self.x)

    @property
    def rest(self) -> Tensor:
        """An orthonormal basis of what is hidden, shape (D − m, D)."""
        return torch.linalg.svd(self.matrix).Vh[len(self.matrix) :]

    def denoiser(self, z: Tensor, gamma: Tensor) -> Tensor:
        """x̂_0 for images."""
        return self.data.denoise(z.flatten(1), gamma).reshape(z.shape)


def smooth(length: float, variance: float) -> Tensor:
    """The covariance v exp(−d²/2l²) of pixels at the distance d, with 10% independent variance."""
    places = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    return variance * (torch.exp(-0.5 * (torch.cdist(places, places) / length) ** 2) + 0.1 * torch.eye(D))


def oracles() -> list[Oracle]:
    """Gaussian data and a mixture, each with a mask and with block means."""
    slope = torch.linspace(-0.6, 0.6, SIDE, dtype=torch.float64).repeat(SIDE)  # from left to right
    one = GaussianData(torch.zeros(D, dtype=torch.float64), smooth(1.5, 0.3))
    modes = [GaussianData(slope, smooth(1.5, 0.1)), GaussianData(-0.3 * slope.abs() - 0.3, smooth(2.0, 0.05))]
    gauss = MixtureData(torch.ones(1), [one])
    mixture = MixtureData(torch.tensor([0.5, 0.5]), modes)
    left = (torch.arange(SIDE) < SIDE // 2).expand(1, SIDE, SIDE)
    x = one.sample(torch.linspace(-1, 1, D, dtype=torch.float64).sin()[None])[0]
    middle = 0.9 * modes[0].mean + 0.1 * modes[1].mean
    return [
        Oracle("Gaussian, mask", gauss, Mask(left), x),
        Oracle("Gaussian, block means", gauss, BlockMeans(2), x),
        Oracle("mixture, mask", mixture, Mask(left), middle),
    ]


class Row(NamedTuple):
    """The result of one method with one number of evaluations."""

    method: str
    evaluations: int
    mean: float
    cov: float
    kl: float
    first: float


def steps_for(method: Method, budget: int) -> int | None:
    """The most steps within the budget, from 5 to 1,000; None if there are fewer than 5."""
    fitting = [steps for steps in range(5, 1001) if method.evaluations(steps) <= budget]
    return max(fitting, default=None)


def draws_of(oracle: Oracle, method: Method, steps: int, n: int) -> Tensor:
    """n draws, shape (n, D)."""
    gammas = descending(chain_of(as_schedule("cosine").grid(1000)), steps)
    denoiser: Denoiser = denoiser_of(oracle.denoiser)
    y = oracle.constraint.measure(oracle.x.reshape(1, *SHAPE)).expand(n, *[-1] * 3)
    *_, last = method.draw(
        denoiser, Seen.of(oracle.constraint, y), gammas, lambda k: Draws(0, k, range(n), n, torch.device("cpu")), False
    )
    return last.z.flatten(1)


def measured(oracle: Oracle, words: str, evaluations: int, x: Tensor) -> Row:
    """Errors of draws against the exact law."""
    exact, rest = oracle.exact, oracle.rest
    h, mean, cov = x @ rest.T, rest @ exact.mean, rest @ exact.cov @ rest.T
    off = float((h.mean(0) - mean).norm() / cov.trace().sqrt())
    spread = float((torch.cov(h.T) - cov).norm() / cov.norm())
    mode = oracle.data.responsibilities(x, torch.full((len(x),), -torch.inf)).argmax(1)
    kl, first = 0.0, float((mode == 0).double().mean())
    for k, (weight, part) in enumerate(zip(exact.weights, exact.parts, strict=True)):
        own = h[mode == k]
        share = len(own) / len(x)
        if share > 0:
            kl += share * float((share / weight).log())
        if share > LEAST:
            kl += share * float(kl_gaussian(own.mean(0), torch.cov(own.T), rest @ part.mean, rest @ part.cov @ rest.T))
    return Row(words, evaluations, off, spread, kl, first)


def table(oracle: Oracle, n: int, show: Callable[[str], None]) -> list[Row]:
    """Every method at every budget that has at least five steps of it."""
    rows = []
    for budget in BUDGETS:
        for words in WAYS:
            method: Method = from_words(words, METHODS, "method")
            steps = steps_for(method, budget)
            if steps is None:
                continue
            found = measured(oracle, words, method.evaluations(steps), draws_of(oracle, method, steps, n))
            rows.append(found)
            show(f"{oracle.name}: {found}")
    return rows


def in_lines(oracle: Oracle, rows: list[Row]) -> str:
    """A table of the page."""
    lines = [
        f"| {row.method} | {row.evaluations} | {row.mean:.3f} | {row.cov:.3f} | {row.kl:.3f} |"
        for row in sorted(
            rows, key=lambda row: (BUDGETS.index(min(b for b in BUDGETS if b >= row.evaluations)), row.kl)
        )
    ]
    head = (
        "| method | evaluations | error of the mean | error of the covariance | KL |\n| --- | --- | --- | --- | --- |"
    )
    return f"### {oracle.name}\n{head}\n" + "\n".join(lines)


def best(tables: list[list[Row]]) -> str:
    """The method with the smallest mean KL over the oracles at each budget."""
    lines = []
    for low, budget in zip((0, *BUDGETS), BUDGETS, strict=False):
        means = {}
        for words in WAYS:
            kls = [r.kl for rows in tables for r in rows if r.method == words and low < r.evaluations <= budget]
            if len(kls) == len(tables):
                means[words] = sum(kls) / len(kls)
        if means:
            ranked = sorted(means, key=means.__getitem__)[:2]
            lines.append(f"- {budget} evaluations: " + ", then ".join(f"`{w}` ({means[w]:.3f} nats)" for w in ranked))
    return "The smallest mean KL over the three tables:\n\n" + "\n".join(lines)


def imputed(run: Run, n: int, draws: int) -> str:
    """The table of a run: each method, mean filling, and the nearest training image by the seen pixels."""
    dataset, shape = run.dataset, run.config.images.shape
    x, levels = dataset.split("test")[:n], dataset.levels
    hidden = torch.zeros(shape[1:], dtype=torch.bool)
    hidden[:, shape[2] // 2 :] = True
    truth, train = to_unit(x, levels), to_unit(dataset.split("train"), levels)
    target = x[..., hidden].flatten(1).long()
    rows, of_draws = [], {}

    def add(name: str, evaluations: int, drawn: Tensor) -> None:
        """A row from draws of shape (n, draws, C, H, W)."""
        several = drawn.shape[1] > 1
        parts = [(drawn.mean(1) - truth)[..., hidden], (drawn[:, 0] - truth)[..., hidden]]
        each = [part.square().flatten(1).mean(1) for part in parts]
        cells = [f"{float(e.mean()):.4f} ± {float(e.std()) / n**0.5:.4f}" for e in each]
        coded = hidden_bits(target, ((drawn[..., hidden].flatten(2) + 1) * (levels - 1) / 2).round(), levels)
        cells.append(f"{float(coded.mean()):.3f} ± {float(coded.std()) / n**0.5:.3f}")
        rows.append(f"| {name} | {evaluations} | {cells[0]} | {cells[1] if several else '–'} | {cells[2]} |")
        if evaluations:
            of_draws[name] = float(each[1].mean())
        print(rows[-1], flush=True)

    add("mean of the training images", 0, train.mean(0).expand(n, 1, *shape))
    add(f"{MARGINAL:,} training images as draws", 0, train[:MARGINAL].expand(n, -1, *shape))
    seen = ~hidden
    near = torch.cdist(truth[..., seen].flatten(1), train[..., seen].flatten(1)).argmin(1)
    add("nearest training image by the seen pixels", 0, train[near][:, None])
    for words, steps in SETTINGS.items():
        done = edit(run, "inpaint", *x, mask=hidden.numpy(), n=draws, method=words, steps=steps, batch_size=256)
        add(f"{words}, {steps} steps", done.evaluations, to_unit(done.images, levels).reshape(n, draws, *shape))
    return OF_RUN.format(
        family=run.config.family,
        data=run.config.images.name,
        step=run.step,
        rows="\n".join(rows),
        best=min(of_draws, key=of_draws.__getitem__),
    )


def imputations(runs: list[Path], n: int, draws: int) -> str:
    """The part of the page on runs."""
    return IMPUTATION.format(
        command=f"python bench/run.py editing {' '.join(path.name for path in runs)}",
        n=n,
        draws=draws,
        runs="\n".join(imputed(Run(path), n, draws) for path in runs).strip(),
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=8)
    given = parser.parse_args()
    tables = [table(oracle, given.samples, lambda line: print(line, flush=True)) for oracle in oracles()]
    before = FOUND.search(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else None
    imputation = before[0] if before else ""
    if given.runs:
        imputation = imputations(given.runs, given.images, given.draws)
    PAGE.write_text(page(tables, given.samples, imputation), encoding="utf-8")


def page(tables: list[list[Row]], n: int, imputation: str) -> str:
    """docs/editing.md."""
    every = oracles()
    last = max(r.evaluations for r in tables[-1])
    modes = [f"| {r.method} | {r.first:.3f} |" for r in tables[-1] if r.evaluations > BUDGETS[-2]]
    d = len(every[0].rest)
    return TEXT.format(
        n=n,
        floor=f"{(d + d * (d + 1) / 2) / (2 * n):.3f}",
        tables="\n\n".join(in_lines(oracle, rows) for oracle, rows in zip(every, tables, strict=True)),
        default=best(tables),
        weights=" and ".join(f"{float(weight):.3f}" for weight in every[-1].exact.weights),
        modes="\n".join(modes),
        imputation=imputation.strip(),
        last=last,
    )


if __name__ == "__main__":
    main()
