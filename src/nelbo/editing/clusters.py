"""The cluster of an image of which only A x = y is seen.

    P(c|A x) ∝ P(c) exp(−½ ν d_c²/min_k d_k²),   d_c = ‖A⁺A x − P m_c‖

This is Bayes' rule for laws N(m_c, s² I) of the images of a cluster, with s² from the nearest one, if what
is seen is worth ν independent numbers: ν s² = min_k d_k². Pixels are alike, so that ν is less than their number. With S
the covariance of P m_c over the clusters, ν is the effective number of its dimensions,

    ν = (tr S)²/tr S²

which is the number of pixels if they vary independently and alike, and does not change if each comes twice. The law is
exact for such clusters, and else an estimate: a diffusion model has no p(A x|c).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.editing.constraints import Seen
from nelbo.nn.clusters import Clusters

TOGETHER = 512
"""Means of clusters that are compared at a time."""
MOST = 1024
"""Clusters of which S is computed, the first ones."""


def cluster_law(clusters: Clusters, seen: Seen, label: Tensor | None = None) -> Tensor:
    """P(c|A x) of each cluster, float64, shape (B, K).

    Args:
        clusters: the clusters, with their shares P(c).
        seen: A, and A⁺A x of each image.
        label: y, 1 …, 0 if unknown, int64, shape (B,) or (1,), whose P(c|y) is then the share; None if unknown.
    """
    share = clusters.shares[None] if label is None else clusters.shares_by_label[label]
    parts = torch.split(torch.arange(len(clusters), device=share.device), TOGETHER)
    known = seen.known.flatten(1)
    squares = torch.cat([torch.cdist(known, projected(clusters, seen, part)).double().square() for part in parts], 1)
    squares = squares.masked_fill(share == 0, torch.inf)
    least = squares.min(1, keepdim=True).values.clamp(min=torch.finfo(torch.float64).tiny)
    worth = effective_number(projected(clusters, seen, (clusters.shares > 0).nonzero()[:MOST, 0]))
    return (share.log() - 0.5 * worth * (squares / least).masked_fill(share == 0, 0.0)).softmax(1)


def projected(clusters: Clusters, seen: Seen, numbers: Tensor) -> Tensor:
    """P m_c of these clusters, shape (N, D)."""
    return seen.constraint.project(clusters.picture(numbers)).flatten(1)


def effective_number(x: Tensor) -> float:
    """(tr S)²/tr S² of the covariance S of the rows of x, shape (N, D); 0 if they are all the same."""
    centred = (x - x.mean(0)).double()
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred  # both have the same eigenvalues but 0
    total = float(gram.trace())
    return total**2 / float(gram.square().sum()) if total > 0 else 0.0


def drawn_clusters(law: Tensor, u: Tensor) -> Tensor:
    """A cluster of each image from its law, int64, shape (B,).

    Args:
        law: P(c|A x), shape (B, K).
        u: uniforms in (0, 1), shape (B,).
    """
    ends = law.cumsum(1)
    place = torch.searchsorted(ends, u[:, None].to(ends) * ends[:, -1:], right=True)[:, 0]
    return place.clamp(max=law.shape[1] - 1)
