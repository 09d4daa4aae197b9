"""The cluster of an image of which A x is seen, or z, the image with noise.

    P(c|A x) ∝ P(c) exp(−½ ν d_c²/min_k d_k²),              d_c = ‖A⁺A x − P m_c‖
    P(c|z)   ∝ P(c) exp(−½ ‖z − √ᾱ m_c‖²/(1 − ᾱ + ᾱ s²)),   s² = min_k ‖x − m_k‖²/ν

Both are Bayes' rule for laws N(m_c, s² I) of the images of a cluster, with s² from the nearest one, if what is seen is
worth ν independent numbers: ν s² = min_k d_k². Pixels are alike, so that ν is less than their number. Images of one
cluster differ in what neighbouring clusters differ in: with S = E[δ δᵀ], δ = P (m_c − m_c′) and c′ the other cluster
nearest to c (P = I for z), ν is the effective number of the dimensions of S,

    ν = (tr S)²/tr S²

which is the number of pixels if they vary independently and alike, and does not change if each comes twice. The laws
are exact for such clusters, and else estimates: a diffusion model has no p(A x|c) or p(z|c).

Most of all differences between clusters is brightness. With their S, ν would be 5 instead of 15 on photographs whose
right half is hidden, and the cluster of an unseen image would cost 3.2 nats instead of 2.4, −ln P(c(x)|A x); on MNIST
2.3 instead of 2.1, on digits 1.4 instead of 1.6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.diffusion.process import noise_var, signal_rate
from nelbo.editing.constraints import Constraint, Seen
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
    share, squares = clusters.share(label), squared_distances(clusters, seen.known, seen.constraint)
    var = within(share, squares, dimensions(clusters, seen.constraint))
    return posterior(share, squares / var)


def noised_cluster_law(clusters: Clusters, x: Tensor, z: Tensor, gamma: Tensor, label: Tensor | None = None) -> Tensor:
    """P(c|z) of each cluster, float64, shape (B, K).

    Args:
        clusters: the clusters, with their shares P(c).
        x: images in [−1, 1], shape (B, C, H, W).
        z: the same with noise, of the shape of x.
        gamma: γ of the noise, shape (B,).
        label: as in :func:`cluster_law`.
    """
    signal = signal_rate(gamma)[:, None]
    squares = squared_distances(clusters, z / signal[..., None, None].to(z))
    var = within(clusters.share(None), squared_distances(clusters, x), dimensions(clusters))
    return posterior(clusters.share(label), squares / (var + noise_var(gamma)[:, None] / signal.square()))


def dimensions(clusters: Clusters, constraint: Constraint | None = None) -> float:
    """ν, in which neighbouring clusters differ, of the first MOST clusters with images."""
    numbers = (clusters.shares > 0).nonzero()[:MOST, 0]
    centres = clusters.centres[numbers]
    other = torch.cdist(centres, centres).fill_diagonal_(torch.inf).argmin(1)
    each = means(clusters, numbers, constraint)
    return effective_number(each - each[other])


def means(clusters: Clusters, numbers: Tensor, constraint: Constraint | None = None) -> Tensor:
    """m_c of these clusters, or P m_c, shape (N, D)."""
    pictures = clusters.picture(numbers)
    return (pictures if constraint is None else constraint.project(pictures)).flatten(1)


def squared_distances(clusters: Clusters, x: Tensor, constraint: Constraint | None = None) -> Tensor:
    """‖x − m_c‖², or ‖x − P m_c‖², of images and each cluster, float64, shape (B, K)."""
    parts = torch.split(torch.arange(len(clusters), device=x.device), TOGETHER)
    found = [torch.cdist(x.flatten(1), means(clusters, part, constraint)) for part in parts]
    return torch.cat(found, 1).double().square()


def within(share: Tensor, squares: Tensor, worth: float) -> Tensor:
    """s², the squared distance to the nearest cluster that has a share, over ν, above 0, shape (B, 1)."""
    nearest = squares.masked_fill(share == 0, torch.inf).min(1, keepdim=True).values
    return (nearest / max(worth, 1.0)).clamp(min=torch.finfo(torch.float64).tiny)


def posterior(share: Tensor, squares: Tensor) -> Tensor:
    """P(c|…) from P(c) and the squared distances in variances, shape (B, K)."""
    return (share.log() - 0.5 * squares).masked_fill(share == 0, -torch.inf).softmax(1)


def effective_number(x: Tensor) -> float:
    """(tr S)²/tr S² of the second moment S of the rows of x, shape (N, D); 0 if they are all 0."""
    x = x.double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # both have the same eigenvalues but 0
    total = float(gram.trace())
    return total**2 / float(gram.square().sum()) if total > 0 else 0.0
