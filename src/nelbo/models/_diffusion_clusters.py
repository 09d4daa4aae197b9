"""A diffusion model with a discrete latent: the cluster c(x) of the image among K clusters of training images.

The model is p(x) = Σ_c P(c) p(x|c), with P(c) the share of the training images in c, and a diffusion model p(x|c) whose
network also sees m_c, the mean image of c. One summand is at most the sum, so c(x) alone has a bound:

    −ln p(x) ≤ −ln P(c(x)) + the bound of −ln p(x|c(x))

The first term is ``cluster``, at most ln K on average if the clusters are even. Sampling draws c from P, then x given
c. So what is global about an image is a choice between examples, which a network that is small or trained for minutes
cannot learn to make step by step (as clusters do for GANs: Liu et al. 2020; Casanova et al. 2021; and for diffusion:
Hu et al. 2023). In training one image in ten comes without m_c, so that the same network also denoises given z alone;
this is what editing uses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.rng import Draws, Stream, uniform
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_unit

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

HIDDEN = 0.1
"""The fraction of training images whose cluster the network does not see."""


def given(model: Diffusion, hint: Tensor | None) -> Diffusion:
    """The same model of a batch whose images come with these pictures.

    Args:
        model: the model.
        hint: m_c of each image, shape (B, C, H, W); None leaves the model as it is.
    """
    if hint is None:
        return model
    other = copy.copy(model)
    other.denoiser = model.denoiser.given(hint)
    return other


def shown_clusters(model: Diffusion, x: Tensor) -> Diffusion:
    """p(x|c(x)), or the model itself if it has no clusters, or its batch already has pictures.

    Args:
        model: the model.
        x: integer levels, shape (B, C, H, W), on the model's device.
    """
    if model.clusters is None or model.denoiser.hint is not None:
        return model
    return given(model, model.clusters.picture(model.clusters(to_unit(x, model.levels))))


def shown_most_clusters(model: Diffusion, x: Tensor, draws: Draws) -> Diffusion:
    """As :func:`shown_clusters`, but for training: a random tenth of the images comes with zeros."""
    told = shown_clusters(model, x)
    if told.denoiser.hint is None:
        return told
    seen = draws.uniform(Stream.CLUSTER_DROPOUT) >= HIDDEN
    return given(model, told.denoiser.hint * seen.to(told.denoiser.hint).reshape(-1, 1, 1, 1))


def shown_drawn_clusters(model: Diffusion, indices: Sequence[int], seed: int) -> Diffusion:
    """p(x|c), with c of each index drawn from P(c)."""
    if model.clusters is None:
        return model
    u = uniform(seed, Stream.SAMPLE_CLUSTER, 0, indices, device=model.device)
    return given(model, model.clusters.picture(model.clusters.drawn(u)))


def with_cluster_term(model: Diffusion, x: Tensor, bound: Bound) -> Bound:
    """The bound of p(x|c(x)), and the term −ln P(c(x)), in nats, if there is more than one cluster to choose from."""
    if model.clusters is None or int(torch.count_nonzero(model.clusters.shares)) < 2:
        return bound
    cost = model.clusters.cost(model.clusters(to_unit(x, model.levels)))
    return replace(bound, terms={**bound.terms, "cluster": cost})
