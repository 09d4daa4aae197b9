"""The loss of a diffusion model: ½ ∫ w(γ) E‖ε − ε̂‖² dγ and the decoder's terms, from one γ per image.

Both losses are in nats per dimension. If w = 1, they are unbiased estimates of the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.known import Rows
from nelbo.diffusion.process import diffuse, on_device, prior_term
from nelbo.diffusion.schedules import Curve, LearnedGamma, split_gradient
from nelbo.diffusion.variances import squared_error
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_default_dtype, to_unit

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

CHAIN_DECODER_SHARE, DECODER_SHARE = 16, 32
"""Every n-th image trains the decoder: n for a chain whose objective is not the bound, and n in continuous time."""
VARIANCE_WEIGHT = 0.001
"""λ, the weight of the bound's term that trains a learned reverse variance with another objective."""


def decoder_subset(draws: Draws, share: int) -> slice | list[int]:
    """The rows of the batch that train the decoder: those whose index is a multiple of ``share``.

    They are computed on the host, which so does not wait for the device.
    """
    if isinstance(draws.indices, range) and draws.indices.step == 1:
        return slice(-draws.indices.start % share, None, share)
    return [row for row, index in enumerate(draws.indices) if index % share == 0]


def chain_loss(model: Diffusion, x: Tensor, draws: Draws) -> Tensor:
    """A chain's loss: T times one random term of the bound, or ½ w(γ_t) γ′ ‖ε − ε̂‖², per dimension.

    If the objective contains the bound, t is drawn in proportion to the root mean square of its term (Nichol & Dhariwal
    2021, section 3.3), t = 1 is the decoder's term, and the part w − 1 is added. Otherwise t is uniform, and the
    learned variances have terms of their own without gradient to x̂_0, which the weighted loss alone trains: a decoder
    has its likelihood, on some images at t = 1; a reverse variance has λ times the bound, which together is L_hybrid
    (their (16)).
    """
    gammas = model.timeline.gammas
    assert gammas is not None
    x_0, eps = to_unit(x, model.levels), draws.normal(Stream.TRAIN_NOISE, model.shape)
    t, importance, _ = model.profile.draw(draws.spread(Stream.TRAIN_TIME))
    exact, T = model.objective.trains_bound, len(gammas) - 1
    rows = decoder_subset(draws, CHAIN_DECODER_SHARE)
    if not exact and model.decoder.learned:
        t[rows] = 1
    first, grid = t == 1, on_device(gammas, t.device)
    gamma, before = grid[t], torch.where(first, grid[t] - 1.0, grid[t - 1])  # t = 1 is the decoder, not a step
    z = diffuse(x_0, gamma, eps)
    output = model.denoiser.predict(z, gamma)
    denoised = model.denoiser.to_denoised(output, z, gamma)
    error = squared_error(eps, denoised.eps) / model.dims
    slope = T * (grid[t.clamp(min=min(2, T))] - grid[t.clamp(min=min(2, T)) - 1]) if T > 1 else torch.ones_like(gamma)
    weight = (0.5 * slope * (model.objective.weight(gamma, slope) - float(exact))).to(error)
    scale = T / model.dims

    def term(of: Denoised) -> Tensor:
        return scale * model.variance.diffusion_term(of, eps, before, gamma)

    def nll(rows: Rows, of: Denoised) -> Tensor:
        return to_default_dtype(model.decoder.nll(x[rows], of, z[rows], gamma[rows]).flatten(1).sum(1))

    if exact:
        loss = term(denoised)
        if x.device.type == "cpu":
            at_first = model.denoiser.to_denoised(output[first], z[first], gamma[first])
            loss = replaced(loss, first, scale * nll(first, at_first))
        else:  # of every image, because the host does not know which are at t = 1
            loss = torch.where(first, scale * nll(slice(None), denoised), loss)
        if model.training:
            model.profile.update(*(model.gather_batch(rows.detach()) for rows in (t, loss)))
        return (loss + weight * error) * importance.to(loss.dtype)
    loss = weight * error
    if model.reverse_variance == "learned" and T > 1:
        loss = loss + VARIANCE_WEIGHT * term(fixed(denoised)) * ~first
    if model.decoder.learned:
        of = fixed(model.denoiser.to_denoised(output[rows], z[rows], gamma[rows]))
        loss = replaced(loss, rows, nll(rows, of) / model.dims)
    return loss


def replaced(x: Tensor, rows: Rows, values: Tensor) -> Tensor:
    """A copy of x with these values in these rows."""
    x = x.clone()
    x[rows] = values
    return x


def fixed(denoised: Denoised) -> Denoised:
    """The same result without gradients through x̂_0 and ε̂."""
    return denoised._replace(x_0=denoised.x_0.detach(), eps=denoised.eps.detach())


def continuous_loss(model: Diffusion, x: Tensor, draws: Draws) -> Tensor:
    """In continuous time: ½ w(γ) γ′(t) ‖ε − ε̂‖² per dimension; one image in 32 also trains the decoder, at t = 0.

    λ, ``every_decoder``, adds λ E[−ln p(x|z_t)] over the same t. This is the decoder of a bound that stops at t, and
    the laws that minimise it also have the best x̂_0. A squared error depends only on the laws' means, which gives a
    weaker signal early in training.

    A learned γ has its ends trained by the bound and its shape by the bound's variance: the gradient of E[loss²], which
    for each image is 2 · loss times the gradient of the loss (Kingma et al. 2021, section 5.1).
    """
    x_0, eps = to_unit(x, model.levels), draws.normal(Stream.TRAIN_NOISE, model.shape)
    index, importance, place = model.profile.draw(draws.spread(Stream.TRAIN_TIME))
    t = place / model.profile.T
    (gamma, slope), set_loss = trained_curve(model, t)
    ends = model.schedule(torch.arange(2, dtype=t.dtype, device=t.device))[0]
    learned = isinstance(model.schedule, LearnedGamma)
    subset = decoder_subset(draws, DECODER_SHARE) if learned or model.decoder.learned else slice(0)
    gamma_0 = ends[0].expand(len(x[subset]))
    z, z_0 = diffuse(x_0, gamma, eps), diffuse(x_0[subset], gamma_0, eps[subset])
    known = model.denoiser.known
    denoiser = model.denoiser.given(known.followed_by(known.rows(subset)))
    output = denoiser.predict(torch.cat([z, z_0]), torch.cat([gamma, gamma_0]))
    output, at_0 = torch.split(output, [len(z), len(z_0)])
    denoised = model.denoiser.to_denoised(output, z, gamma)
    loss = 0.5 * slope * squared_error(eps, denoised.eps).double() / model.dims
    loss = model.objective.weight(gamma, slope) * loss
    if model.training:
        model.profile.update(*(model.gather_batch(rows.detach()) for rows in (index, loss)))
    loss = loss * importance
    set_loss(loss.detach())
    decoded = model.denoiser.to_denoised(at_0, z_0, gamma_0)
    nll = model.decoder.nll(x[subset], decoded, z_0, gamma_0).double().flatten(1).sum(1)
    loss = replaced(loss, subset, loss[subset] + DECODER_SHARE * nll / model.dims)
    if learned:
        loss = loss + prior_term(x_0, ends[1]) / model.dims
    if denoised.law is not None and model.every_decoder:
        loss = loss + model.every_decoder * denoised.law.nll(x).double() / model.dims
    return to_default_dtype(loss)


def trained_curve(model: Diffusion, t: Tensor) -> tuple[Curve, Callable[[Tensor], None]]:
    """γ(t) and γ′(t), and a function that receives each image's loss, for a learned γ."""
    if isinstance(model.schedule, LearnedGamma):
        return split_gradient(model.schedule, t)
    return model.schedule(t), lambda loss: None
