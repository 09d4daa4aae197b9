"""A diffusion model with a discrete latent: the cluster c(x) of the image among K clusters of training images.

The model is p(x) = Σ_c P(c) p(x|c), with P(c) the share of the training images in c, and a diffusion model p(x|c) whose
network also sees m_c, the mean image of c. One summand is at most the sum, so c(x) alone has a bound:

    −ln p(x) ≤ −ln P(c(x)) + the bound of −ln p(x|c(x))

The first term is ``cluster``, at most ln K on average if the clusters are even. Sampling draws c from P, then x given
c. So what is global about an image is a choice between examples, which a network that is small or trained for minutes
cannot learn to make step by step (as clusters do for GANs: Liu et al. 2020; Casanova et al. 2021; and for diffusion:
Hu et al. 2023). In training one image in ten comes without m_c, so that the same network also denoises given z alone;
editing uses this, or draws c given what is seen (:mod:`nelbo.editing.clusters`).

With labels y the model is also p(x|y) = Σ_c P(c|y) p(x|c, y), with clusters of each class; its bound has the nearest
one of them, c(x, y). In training, half of the images without m_c also come without their labels, so that the same
network denoises given z alone and given z and y, which editing uses; of the others the fraction ``label_dropout`` does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.diffusion.known import Known
from nelbo.models._labels import hidden_labels
from nelbo.rng import Draws, Stream, uniform
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_unit

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

HIDDEN = 0.1
"""The fraction of training images whose cluster the network does not see."""
HIDDEN_WITH_LABEL = HIDDEN / 2
"""The fraction whose label it does not see either."""


def given(model: Diffusion, known: Known) -> Diffusion:
    """The same model of a batch of which this is known."""
    if not known:
        return model
    other = copy.copy(model)
    other.denoiser = model.denoiser.given(known)
    return other


def shown_clusters(model: Diffusion, x: Tensor, labels: Tensor | None = None) -> Diffusion:
    """p(x|c(x, y), y), without c if the model has no clusters, and without y if there are no labels.

    Args:
        model: the model.
        x: integer levels, shape (B, C, H, W), on the model's device.
        labels: y of each image, 1 … K, 0 if unknown, int64, shape (B,); None if all are unknown.
    """
    if model.clusters is None:
        return given(model, Known(label=labels))
    cluster = model.clusters(to_unit(x, model.levels), labels)
    return given(model, Known(model.clusters.picture(cluster), labels))


def shown_most_clusters(model: Diffusion, x: Tensor, draws: Draws) -> Diffusion:
    """As :func:`shown_clusters` with the labels of ``draws``, but for training: a random part of the images hides them.

    A tenth hides the cluster, and half of them the label, too. Of the others, the fraction ``label_dropout`` hides it.
    """
    known = shown_clusters(model, x, draws.labels).denoiser.known
    if known.picture is not None:
        u = draws.uniform(Stream.CLUSTER_DROPOUT)
        known = known.without_pictures(u < HIDDEN)
    if known.label is not None:
        no_label = hidden_labels(draws, model.label_dropout)
        if known.picture is not None:
            no_label = torch.where(u < HIDDEN, u < HIDDEN_WITH_LABEL, no_label)
        known = known.without_labels(no_label)
    return given(model, known)


def shown_drawn_clusters(
    model: Diffusion, indices: Sequence[int], seed: int, labels: Tensor | None = None
) -> Diffusion:
    """p(x|c, y), with c of each index drawn from P(c|y), and without y if there are no labels."""
    if model.clusters is None:
        return given(model, Known(label=labels))
    u = uniform(seed, Stream.SAMPLE_CLUSTER, 0, indices, device=model.device)
    return given(model, Known(model.clusters.picture(model.clusters.drawn(u, labels)), labels))


def with_cluster_term(model: Diffusion, x: Tensor, bound: Bound, labels: Tensor | None = None) -> Bound:
    """The bound of p(x|c, y), c = c(x, y), and the term −ln P(c|y), in nats, if there is more than one cluster.

    Args:
        model: the model.
        x: integer levels, shape (B, C, H, W).
        bound: of p(x|c, y).
        labels: y of each image, as in :func:`shown_clusters`.
    """
    if model.clusters is None or int(torch.count_nonzero(model.clusters.shares)) < 2:
        return bound
    cost = model.clusters.cost(model.clusters(to_unit(x, model.levels), labels), labels)
    return replace(bound, terms={**bound.terms, "cluster": cost})
