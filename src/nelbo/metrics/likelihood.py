"""The bound of a model on a set of images, with two errors that are kept apart.

With y_{ir} the r-th independent estimate of the bound of image i (n images, R replicates), ȳ_i its mean over r and
s_i² its variance over r:

    bound       = (1/n) Σ_i ȳ_i
    stderr_mc²  = (1/n²) Σ_i s_i²/R             the Monte-Carlo error with these images fixed: more evaluations lower it
    stderr²     = var_i(ȳ_i)/n                  both together, where no image is a copy of another
    stderr_data² = stderr² − stderr_mc²         the sampling error over images: only more images lower it

Copies of one image say no more than one of them does. With G distinct images, C_g the rows that are copies of the g-th,
and ȳ the mean of all ȳ_i (Liang & Zeger 1986, with the correction for few clusters):

    stderr²     = G/(G − 1) · Σ_g (Σ_{i ∈ C_g} (ȳ_i − ȳ))² / n²

The t of one replicate are stratified, hence correlated; replicates are independent, so s_i² is unbiased all the same.
stderr_mc also holds a solver's error, where there is one, and stderr is never less than it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models.base import LikelihoodModel
from nelbo.rng import Draws
from nelbo.theory.bound import SOLVER, Bound
from nelbo.units import bits_per_dim

TOTAL = "total"
FEW, ENOUGH = 10, 40
"""An error that so few images make is uncertain, where there are enough to share it."""
MATTERS = 0.1
"""Of the total's Monte-Carlo error, what a term's must be for its own certainty to matter."""


@dataclass(frozen=True)
class LikelihoodScore:
    """The bound of n images.

    Args:
        terms: name → estimates in nats, float64, shape (n, R).
        dims: D, data dimensions per image.
        evaluations: network evaluations per image, all replicates together.
        extras: the same for what is no part of the sum.
        copies: the number of each image's distinct image, int64, shape (n,); None if all are distinct.
    """

    terms: dict[str, Tensor]
    dims: int
    evaluations: int
    extras: dict[str, Tensor] = field(default_factory=dict)
    copies: Tensor | None = None

    @property
    def n(self) -> int:
        """The number of images."""
        return len(next(iter(self.terms.values())))

    def estimates(self, name: str = TOTAL) -> Tensor:
        """y_{ir} of one term, of what stands beside them, or of the terms' sum, in nats, shape (n, R)."""
        if name == TOTAL:
            return torch.stack(list(self.terms.values())).sum(0)
        return self.terms[name] if name in self.terms else self.extras[name]

    def nats(self, name: str = TOTAL) -> float:
        """Mean over images and replicates, in nats per image."""
        return float(self.estimates(name).mean())

    def bits(self, name: str = TOTAL) -> float:
        """The same in bits per dimension."""
        return bits_per_dim(self.nats(name), self.dims)

    def minus(self, other: LikelihoodScore) -> LikelihoodScore:
        """The difference from another score of the same images with the same noise: what both share cancels.

        Raises:
            ValueError: other images, or another number of replicates.
        """
        mine, theirs = self.estimates(), other.estimates()
        if mine.shape != theirs.shape or self.dims != other.dims:
            raise ValueError("only scores of the same images with as many replicates can be paired")
        solved = [score.extras[SOLVER] for score in (self, other) if SOLVER in score.extras]
        extras = {SOLVER: torch.stack(solved).square().sum(0).sqrt()} if solved else {}
        evaluations = self.evaluations + other.evaluations
        return LikelihoodScore({"difference": mine - theirs}, self.dims, evaluations, extras, self.copies)

    def stderr_mc(self, name: str = TOTAL) -> float:
        """The Monte-Carlo error with these images fixed, and the solver's where there is one, in bits/dim."""
        y = self.estimates(name)
        n, replicates = y.shape
        drawn = math.sqrt(float(y.var(1).sum()) / replicates) / n
        return bits_per_dim(math.hypot(drawn, self.solver_error(name)), self.dims)

    def solver_error(self, name: str = TOTAL) -> float:
        """How far a solver's tolerance may have moved the mean, in nats per image; 0 where nothing was solved.

        What the tolerance changes in each image has a mean, and a spread that leaves the mean uncertain: the larger.
        """
        if SOLVER not in self.extras or name not in (TOTAL, "flow"):
            return 0.0
        change = self.extras[SOLVER].mean(1)
        return max(abs(float(change.mean())), float(change.square().mean().sqrt()) / math.sqrt(self.n))

    def stderr(self, name: str = TOTAL) -> float | None:
        """Both errors together, in bits/dim, never less than :meth:`stderr_mc`; None for a single distinct image."""
        both = stderr_of_mean(self.estimates(name).mean(1), self.copies)
        return None if both is None else max(bits_per_dim(both, self.dims), self.stderr_mc(name))

    def stderr_data(self, name: str = TOTAL) -> float | None:
        """The sampling error over images, in bits/dim; None for a single distinct image."""
        both = self.stderr(name)
        return None if both is None else math.sqrt(both**2 - self.stderr_mc(name) ** 2)

    def warnings(self) -> list[str]:
        """A line for each term whose Monte-Carlo error is itself uncertain, as few images make nearly all of it."""
        lines, least = [], MATTERS * self.stderr_mc()
        for name in self.terms:
            variance = self.estimates(name).var(1).sort(descending=True).values
            few = int((variance.cumsum(0) < 0.9 * variance.sum()).sum()) + 1
            if self.n >= ENOUGH and few < FEW and self.stderr_mc(name) > least:
                lines.append(
                    f"{name}: {few} of {self.n:,} images make 90% of its Monte-Carlo variance, so its error may be far"
                    " too small; take more `replicates`"
                )
        return lines


def stderr_of_mean(y: Tensor, copies: Tensor | None = None) -> float | None:
    """The standard error of the mean of y over images, copies of one image being one cluster.

    Args:
        y: float64, shape (n,).
        copies: the number of each image's distinct image, int64, shape (n,); None if all are distinct.

    Returns:
        In the unit of y; None for a single distinct image.
    """
    numbers = torch.arange(len(y)) if copies is None else torch.unique(copies, return_inverse=True)[1]
    distinct = int(numbers.max()) + 1
    sums = torch.zeros(distinct, dtype=y.dtype).index_add(0, numbers, y - y.mean())
    return math.sqrt(distinct / (distinct - 1) * float(sums.square().sum())) / len(y) if distinct > 1 else None


@torch.no_grad()
def score_likelihood(
    model: LikelihoodModel,
    images: Images,
    *,
    seed: int = 0,
    timesteps: int | None = None,
    replicates: int = 2,
    batch: int = 128,
    form: str | None = None,
    k: int = 8,
    rows: range | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> LikelihoodScore:
    """Estimate the bound of every image. Image i has the same noise whatever the batch, and however many are scored.

    Args:
        model: the model, on its device; scored in torch's default type, with nothing clipped.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1, in a tensor or a NumPy array.
        seed: of the noise.
        timesteps: how many t per image and replicate; the family's default if None.
        replicates: R ≥ 2, or the Monte-Carlo error is unknown.
        batch: images at a time.
        form: how the bound is written, one of ``model.forms``; the first if None.
        k: samples in one logarithm of the importance-weighted form.
        rows: of the images, those to score, with the noise that they have among all; all if None.
        progress: called with the number of images done so far, as a share of n · R.

    Raises:
        InputError: no such images, or a number or a form that the model does not have.
    """
    images, written = checked_images(model, images), model.forms.named(form)
    checked_int("replicates", replicates, 2)
    checked_int("batch", batch, 1)
    checked_seed(seed)
    was_training = model.training
    model.eval()
    count = model.forms.count(written, timesteps, k)
    parts: list[list[Bound]] = []
    rows = range(len(images)) if rows is None else rows
    for replicate in range(replicates):
        parts.append([])
        for first in range(rows.start, rows.stop, batch):
            indices = range(first, min(first + batch, rows.stop))
            x = images[indices.start : indices.stop].to(model.device)
            bound = written.estimate(x, Draws(seed, replicate, indices, len(images), model.device), count)
            parts[-1].append(Bound(_kept(bound.terms), _kept(bound.extras), bound.evaluations))
            progress(replicate * len(rows) + indices.stop - rows.start)
    model.train(was_training)
    terms = _together([[part.terms for part in run] for run in parts])
    extras = _together([[part.extras for part in run] for run in parts])
    evaluations = sum(max(part.evaluations for part in run) for run in parts)
    return LikelihoodScore(terms, model.dims, evaluations, extras)


def _kept(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float64, on the CPU."""
    return {name: value.double().cpu() for name, value in terms.items()}


def _together(parts: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Replicate → batch → name → (B,) as name → (n, R)."""
    return {name: torch.stack([torch.cat([part[name] for part in run]) for run in parts], 1) for name in parts[0][0]}
