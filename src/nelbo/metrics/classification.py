"""The label of an image by the bound of each label, with network evaluations where labels are close.

The cost of a label is C_y = −ln P(y) + bound(x|y), and the image's label is argmin_y C_y. The differences of costs are
estimated from draws that all labels share (:mod:`nelbo.metrics.label_costs`) and from the law of such differences on
held-out images (:mod:`nelbo.metrics.label_profile`). After n draws, whose news are e_i, a difference has the variance

    s.e.² = (ν + Σ_i e_i²)/(ν + n) · Var[Σ d | r],   ν = WEIGHT

where the factor is the scale of this image's differences against those of held-out images (the scale of a multivariate
t, whose weight on held-out images is ν draws). After each draw a label leaves the race if it is worse than the leader
by more than ``REJECT`` standard errors; so it may before the first, by its distance alone. It returns if the leader
changes and it is close to the new one. An image is undecided if another label is within ``UNDECIDED`` standard errors.

The stated probability allows for these errors. With σ the sigmoid, and Δ_y normal about C_y − C_leader with its s.e.,

    P(y|x) ∝ E σ(−Δ_y)/E σ(Δ_y)

the odds of y against the leader, which are e^{C_leader − C_y} without an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.cores import on_own_cores
from nelbo.metrics._evaluating import evaluating
from nelbo.metrics.label_costs import EVALUATIONS, LabelCosts
from nelbo.metrics.label_profile import CostProfile, Plan
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed
from nelbo.models.diffusion import Diffusion

REJECT = 3.0
"""A label leaves the race at this number of standard errors."""
UNDECIDED = 2.0
"""An image is undecided within this number of standard errors."""
WEIGHT = 4.0
"""The number of draws that the variances on held-out images count for."""
ROUNDING = 1e-3
"""Nats: a standard error below it is less than the round-off of a network in float32."""
NODES = 64
"""Nodes of the quadrature over an error."""
TOGETHER = 2**20
"""Pixels of the images whose labels are drawn together: many images fill a batch, also when few labels are left."""


@dataclass(frozen=True)
class Classified:
    """The labels of n images.

    Args:
        label: the leader, an index into the classes, int64, shape (n,).
        behind: C_y − C_leader of each label, in nats, float64, shape (n, K); 0 for the leader.
        stderr: the standard error of it; 0 for the leader.
        evaluations: network evaluations of each image, int64, shape (n,).
    """

    label: Tensor
    behind: Tensor
    stderr: Tensor
    evaluations: Tensor

    def probabilities(self) -> Tensor:
        """P(y|x), shape (n, K)."""
        lost, won = (mean_sigmoid(sign * self.behind, self.stderr) for sign in (-1, 1))
        return (lost.log() - won.log()).softmax(1)

    @property
    def runner_up(self) -> Tensor:
        """The label that is least behind the leader in standard errors, int64, shape (n,)."""
        return self.in_errors().argmin(1)

    @property
    def undecided(self) -> Tensor:
        """Whether the runner-up is within ``UNDECIDED`` standard errors, bool, shape (n,)."""
        return self.in_errors().min(1).values <= UNDECIDED

    def in_errors(self) -> Tensor:
        """How far each label is behind the leader in standard errors, +∞ for the leader, shape (n, K)."""
        ratio = self.behind / self.stderr.clamp(min=ROUNDING)
        return ratio.scatter(1, self.label[:, None], torch.inf)


def mean_sigmoid(mean: Tensor, stderr: Tensor) -> Tensor:
    """E σ(u) of u ~ N(mean, stderr²), by Gauss–Hermite quadrature."""
    total = torch.zeros_like(mean)
    for place, weight in zip(*np.polynomial.hermite.hermgauss(NODES), strict=True):
        total += weight / math.sqrt(math.pi) * (mean + math.sqrt(2) * place * stderr).sigmoid()
    return total


def apart(start: Tensor, news: Tensor, leader: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """C_y − C_leader of each label, and its standard error, from the draws that both have.

    Args:
        start: C_y but for draws: the part without the network, and Σ s ‖x̄ − m‖², in nats, shape (B, K).
        news: e_i of each draw and label, shape (B, N, K); NaN where there is none, after those that there are.
        leader: shape (B,).
        plan: what each draw tells.
    """
    difference = news - news.gather(2, leader[:, None, None].expand(-1, news.shape[1], 1))
    count, difference = difference.isfinite().sum(1), difference.nan_to_num(0.0)
    mean = (plan.weight.to(start.device)[:, None] * difference).sum(1)
    scale = (WEIGHT + difference.square().sum(1)) / (WEIGHT + count)
    stderr = (scale * plan.variance.to(start.device)[count]).sqrt().scatter(1, leader[:, None], 0.0)
    return start - start.gather(1, leader[:, None]) + mean, stderr


def race(
    fixed: Tensor,
    distance: Tensor,
    draw: Callable[[int, int, Tensor], Tensor],
    plan: Plan,
    reject: float = REJECT,
    progress: Callable[[float], None] = lambda done: None,
) -> Classified:
    """Draw the costs of the labels that are left, until one is, or the plan is at its end.

    Args:
        fixed: the parts of C_y without the network, in nats, float64, shape (B, K); +∞ for a label that is impossible.
        distance: ‖x̄ − m‖² of the cluster of each label, shape (B, K).
        draw: (number of the draw, its piece, labels to evaluate (B, K)) → the piece's cost, (B, K).
        plan: the pieces, and what each draw tells.
        reject: a label leaves the race at this number of standard errors; ∞ to keep all.
        progress: called before each draw with the number of images that need no more, plus for each other image the
            share of its draws.
    """
    start = fixed + float(plan.slope.sum()) * distance
    news = torch.full((len(fixed), len(plan.pieces), fixed.shape[1]), torch.nan).to(start)
    count, possible, leader = torch.zeros_like(start, dtype=torch.int64), fixed.isfinite(), start.argmin(1)
    while True:
        behind, stderr = apart(start, news, leader, plan)
        left = possible & ((behind <= reject * stderr) | math.isinf(reject))
        leader = behind.where(left, torch.inf).argmin(1)
        behind, stderr = apart(start, news, leader, plan)
        left = possible & ((behind <= reject * stderr) | math.isinf(reject))
        more = left & (left.sum(1) > 1)[:, None] & (count < len(plan.pieces))
        progress(float((count.amax(1) / len(plan.pieces)).where(more.any(1), 1.0).sum()))
        if not bool(more.any()):
            return Classified(leader, behind, stderr, EVALUATIONS * count.sum(1))
        number = int(count[more].min())  # a label that returns has fewer draws
        asked = more & (count == number)
        drawn = draw(number, plan.pieces[number], asked)
        found = plan.news(number, drawn, distance, news[:, :number])
        news[:, number] = found.where(asked, news[:, number])
        count += asked


def after(progress: Callable[[float], None], before: int) -> Callable[[float], None]:
    """The progress of a part of the images, where this number came before it."""
    return lambda done: progress(before + done)


@on_own_cores()
@torch.no_grad()
def classify_images(
    model: Diffusion,
    images: Images,
    profile: CostProfile,
    prior: Tensor,
    *,
    seed: int = 0,
    most: int = 32,
    batch: int = 128,
    reject: float = REJECT,
    rows: range | None = None,
    matrices: torch.dtype = torch.float32,
    progress: Callable[[float], None] = lambda done: None,
) -> Classified:
    """The label of every image. The noise of image i does not depend on the batch or on the other images.

    Args:
        model: a diffusion model with at least two classes, on its device.
        images: integer levels 0 … L−1, shape (n, C, H, W), n ≥ 1, as a tensor or a NumPy array.
        profile: from :func:`~nelbo.metrics.label_costs.cost_profile`.
        prior: P(y), float64, shape (K,).
        seed: the seed of the noise.
        most: the largest number of network evaluations of an image for one label.
        batch: network evaluations at a time.
        reject: a label leaves the race at this number of standard errors; ∞ to keep all.
        rows: the rows of the images to classify; None for all.
        matrices: as in :class:`~nelbo.metrics.label_costs.LabelCosts`, and as of the profile.
        progress: called with the number of images done, with the parts of those that are in work.

    Returns:
        The labels of the rows, on the CPU.

    Raises:
        InputError: the images do not fit the model, or a number is out of range.
    """
    images = checked_images(model, images)
    checked_int("most", most, EVALUATIONS)
    checked_int("batch", batch, 1)
    checked_seed(seed)
    rows, parts = range(len(images)) if rows is None else rows, []
    plan, together = profile.plan(most // EVALUATIONS), -(-TOGETHER // model.dims)
    with evaluating(model):
        for first in range(rows.start, rows.stop, together):
            indices = range(first, min(first + together, rows.stop))
            x = images[indices.start : indices.stop].to(model.device)
            costs = LabelCosts(model, x, indices, profile.edges, seed, batch, matrices)
            without, distance = costs.without_network()
            shown = after(progress, indices.start - rows.start)
            found = race(without - prior.to(x.device).log(), distance, costs.draw, plan, reject, shown)
            parts.append([part.cpu() for part in (found.label, found.behind, found.stderr, found.evaluations)])
    return Classified(*(torch.cat(each) for each in zip(*parts, strict=True)))
