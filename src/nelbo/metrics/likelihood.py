"""The bound of a model on a set of images, with two separate errors.

With y_{ir} the r-th independent estimate of the bound of image i (n images, R replicates), ȳ_i its mean over r and
s_i² its variance over r:

    bound       = (1/n) Σ_i ȳ_i
    stderr_mc²  = (1/n²) Σ_i s_i²/R             the Monte Carlo error for these images; more evaluations reduce it
    stderr²     = var_i(ȳ_i)/n                  both errors together, if all images are distinct
    stderr_data² = stderr² − stderr_mc²         the sampling error over images; only more images reduce it

Copies of an image count as one cluster. With G distinct images, C_g the rows of the copies of the g-th image, and ȳ the
mean of all ȳ_i (Liang & Zeger 1986, with the correction for few clusters):

    stderr²     = G/(G − 1) · Σ_g (Σ_{i ∈ C_g} (ȳ_i − ȳ))² / n²

The t of one replicate are stratified and hence correlated, but replicates are independent, so s_i² is unbiased.
stderr_mc includes a solver's error, if there is a solver, and stderr is at least stderr_mc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.metrics._evaluating import evaluating
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models.base import LikelihoodModel
from nelbo.rng import Draws
from nelbo.theory.bound import SOLVER, Bound
from nelbo.units import bits_per_dim

TOTAL = "total"
FEW, ENOUGH = 10, 40
"""An error that comes from fewer than FEW of at least ENOUGH images is uncertain."""
MATTERS = 0.1
"""The certainty of a term matters if its Monte Carlo error is above this fraction of the total's."""


@dataclass(frozen=True)
class LikelihoodScore:
    """The bound of n images.

    Args:
        terms: name → estimates in nats, float64, shape (n, R).
        dims: D, data dimensions per image.
        evaluations: network evaluations per image, over all replicates.
        extras: like ``terms``, for numbers that are not in the sum.
        copies: the index of each image's distinct image, int64, shape (n,); None if all are distinct.
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
        """y_{ir} of a term, an extra, or the terms' sum, in nats, shape (n, R)."""
        if name == TOTAL:
            return torch.stack(list(self.terms.values())).sum(0)
        return self.terms[name] if name in self.terms else self.extras[name]

    def nats(self, name: str = TOTAL) -> float:
        """The mean over images and replicates, in nats per image."""
        return float(self.estimates(name).mean())

    def bits(self, name: str = TOTAL) -> float:
        """The mean over images and replicates, in bits per dimension."""
        return bits_per_dim(self.nats(name), self.dims)

    def minus(self, other: LikelihoodScore) -> LikelihoodScore:
        """The difference from another score of the same images with the same noise, in which common noise cancels.

        Raises:
            ValueError: the images or the number of replicates differ.
        """
        mine, theirs = self.estimates(), other.estimates()
        if mine.shape != theirs.shape or self.dims != other.dims:
            raise ValueError("only scores of the same images and number of replicates can be paired")
        solved = [score.extras[SOLVER] for score in (self, other) if SOLVER in score.extras]
        extras = {SOLVER: torch.stack(solved).square().sum(0).sqrt()} if solved else {}
        evaluations = self.evaluations + other.evaluations
        return LikelihoodScore({"difference": mine - theirs}, self.dims, evaluations, extras, self.copies)

    def stderr_mc(self, name: str = TOTAL) -> float:
        """The Monte Carlo error for these images, including a solver's error, in bits/dim."""
        y = self.estimates(name)
        n, replicates = y.shape
        drawn = math.sqrt(float(y.var(1).sum()) / replicates) / n
        return bits_per_dim(math.hypot(drawn, self.solver_error(name)), self.dims)

    def solver_error(self, name: str = TOTAL) -> float:
        """The possible error of the mean by a solver's tolerance, in nats per image; 0 without a solver.

        It is the maximum of the mean change by the tolerance, and of the standard error of this mean.
        """
        if SOLVER not in self.extras or name not in (TOTAL, "flow"):
            return 0.0
        change = self.extras[SOLVER].mean(1)
        return max(abs(float(change.mean())), float(change.square().mean().sqrt()) / math.sqrt(self.n))

    def stderr(self, name: str = TOTAL) -> float | None:
        """Both errors together, in bits/dim, at least :meth:`stderr_mc`; None for a single distinct image."""
        both = stderr_of_mean(self.estimates(name).mean(1), self.copies)
        return None if both is None else max(bits_per_dim(both, self.dims), self.stderr_mc(name))

    def stderr_data(self, name: str = TOTAL) -> float | None:
        """The sampling error over images, in bits/dim; None for a single distinct image."""
        both = self.stderr(name)
        return None if both is None else math.sqrt(both**2 - self.stderr_mc(name) ** 2)

    def warnings(self) -> list[str]:
        """A line for each term whose Monte Carlo error is uncertain because a few images dominate it."""
        lines, least = [], MATTERS * self.stderr_mc()
        for name in self.terms:
            variance = self.estimates(name).var(1).sort(descending=True).values
            few = int((variance.cumsum(0) < 0.9 * variance.sum()).sum()) + 1
            if self.n >= ENOUGH and few < FEW and self.stderr_mc(name) > least:
                lines.append(
                    f"{name}: {few} of {self.n:,} images have 90% of its Monte Carlo variance, so its error may be far"
                    " too small; use more `replicates`"
                )
        return lines


def stderr_of_mean(y: Tensor, copies: Tensor | None = None) -> float | None:
    """The standard error of the mean of y over images; the copies of an image are one cluster.

    Args:
        y: float64, shape (n,).
        copies: the index of each image's distinct image, int64, shape (n,); None if all are distinct.

    Returns:
        In the unit of y; None for a single distinct image.
    """
    numbers = torch.arange(len(y)) if copies is None else torch.unique(copies, return_inverse=True)[1]
    distinct = int(numbers.max()) + 1
    sums = torch.zeros(distinct, dtype=y.dtype).index_add(0, numbers, y - y.mean())
    return math.sqrt(distinct / (distinct - 1) * float(sums.square().sum())) / len(y) if distinct > 1 else None


@on_own_cores()
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
    labels: Tensor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> LikelihoodScore:
    """Estimate the bound of every image. The noise of image i does not depend on the batch or on the other images.

    Args:
        model: the model, on its device; it computes in torch's default dtype, without clipping.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1, as a tensor or a NumPy array.
        seed: the seed of the noise.
        timesteps: the number of t per image and replicate; None for the family's default.
        replicates: R ≥ 2, because the Monte Carlo error needs two.
        batch: images per batch.
        form: a name of ``model.forms``; None for the first.
        k: samples in one logarithm of the importance-weighted form.
        rows: the rows of the images to score, with the same noise as in a score of all images; None for all.
        labels: y of each image, 1 … K, 0 if unknown, int64, shape (n,), for the bound of p(x|y); None for p(x).
        progress: called with the number of estimates done, of n · R.

    Returns:
        The estimates of every term, per image and replicate.

    Raises:
        InputError: the images do not fit the model, a number is out of range, or the model does not have the form.
    """
    images, written = checked_images(model, images), model.forms.named(form)
    checked_int("replicates", replicates, 2)
    checked_int("batch", batch, 1)
    checked_seed(seed)
    count = model.forms.count(written, timesteps, k)
    parts: list[list[Bound]] = []
    rows = range(len(images)) if rows is None else rows
    with evaluating(model):
        for replicate in range(replicates):
            parts.append([])
            for first in range(rows.start, rows.stop, batch):
                indices = range(first, min(first + batch, rows.stop))
                x = images[indices.start : indices.stop].to(model.device)
                y = None if labels is None else labels[indices.start : indices.stop].to(model.device)
                bound = written.estimate(x, Draws(seed, replicate, indices, len(images), model.device, y), count)
                parts[-1].append(Bound(_kept(bound.terms), _kept(bound.extras), bound.evaluations))
                progress(replicate * len(rows) + indices.stop - rows.start)
    terms = _together([[part.terms for part in run] for run in parts])
    extras = _together([[part.extras for part in run] for run in parts])
    evaluations = sum(max(part.evaluations for part in run) for run in parts)
    return LikelihoodScore(terms, model.dims, evaluations, extras)


def _kept(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The terms in float64, on the CPU."""
    return {name: value.double().cpu() for name, value in terms.items()}


def _together(parts: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """Replicate → batch → name → (B,), as name → (n, R)."""
    return {name: torch.stack([torch.cat([part[name] for part in run]) for run in parts], 1) for name in parts[0][0]}
