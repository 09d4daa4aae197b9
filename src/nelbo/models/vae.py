"""Variational autoencoders (Kingma & Welling 2014): an encoder q(z|x), a decoder p(x|z), and a bound of two terms.

    −ln p(x) ≤ E_{q(z|x)}[−ln p(x|z)] + KL(q(z|x) ‖ N(0, I))              reconstruction + kl

q(z|x) = N(μ(x), σ²(x)) with independent components; z = μ + σ ε carries the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from nelbo.bounds import Bound
from nelbo.diffusion import Gaussian
from nelbo.divergences import kl_normal
from nelbo.errors import InputError
from nelbo.likelihoods import Bernoulli, DiscretizedLogistics, DiscretizedNormal, to_unit
from nelbo.models.base import Form, Frame, LikelihoodModel, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.rng import Draws, Stream, normal

COMPONENTS = 5
"""Logistic laws in a pixel's mixture."""
LOG_SCALES = (-7.0, 3.0)
"""Between these ln σ of a pixel's law is held: from far below a level's spacing to far beyond all levels."""
ACTIVE = 0.01
"""A dimension of z is active where the variance over images of its mean exceeds this (Burda et al. 2016)."""


class Law(Protocol):
    """p(x|z), pixel by pixel."""

    def log_prob(self, level: Tensor) -> Tensor:
        """ln P(level), in nats."""

    def expectation(self) -> Tensor:
        """The mean, on the scale where levels fill [−1, 1]."""


class VAEOptions(AutoencoderOptions):
    """The settings of a VAE."""

    decoder: Literal["auto", "bernoulli", "normal", "logistic"] = "auto"
    "p(x|z): Bernoulli for two levels, else a normal law or five logistic ones over the levels; auto: the richest."
    beta: Annotated[float, Field(gt=0)] = 1.0
    "What the KL counts in training; at 1 it is the bound."
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    "Nats of KL per dimension of z, averaged over the batch, that training does not lower."
    kl_warmup: Annotated[int, Field(ge=0)] = 0
    "Steps over which the KL comes to count in full."


class VAE(LikelihoodModel):
    """An encoder, a decoder, and the bound between them.

    Args:
        options: the settings, resolved for ``shape``.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Raises:
        InputError: a Bernoulli decoder for more than two levels.
    """

    family = "vae"

    def __init__(self, options: VAEOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        self.law = options.decoder
        if self.law == "auto":
            self.law = "bernoulli" if levels == 2 else "logistic"
        if self.law == "bernoulli" and levels > 2:
            raise InputError("--decoder", f"a Bernoulli law has two levels and these images {levels}; try logistic")
        outputs = {"bernoulli": 1, "normal": 2, "logistic": 3 * COMPONENTS}[self.law]
        self.encoder = Encoder(shape, 2 * options.latent, options.widths, options.blocks)
        self.decoder = Decoder(shape, options.latent, outputs * shape[0], options.widths, options.blocks)

    # The two laws

    def encode(self, x_0: Tensor) -> Gaussian:
        """q(z|x) for images on [−1, 1], in float32, shapes (B, latent)."""
        mean, log_var = self.encoder(x_0).float().chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(-20.0, 10.0).exp())

    def decode(self, z: Tensor) -> Law:
        """p(x|z) for z of shape (B, latent)."""
        parts = self.decoder(z).float().unflatten(1, (self.shape[0], -1)).movedim(2, -1)
        if self.law == "bernoulli":
            return Bernoulli(parts[..., 0])
        if self.law == "normal":
            return DiscretizedNormal(parts[..., 0], (parts[..., 1] - 1.0).clamp(*LOG_SCALES).exp(), self.levels)
        logits, mean, log_scale = parts.chunk(3, dim=-1)
        return DiscretizedLogistics(logits, mean, (log_scale - 1.0).clamp(*LOG_SCALES), self.levels)

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z) of each image, in nats, shape (B,)."""
        return -self.decode(z).log_prob(x).flatten(1).sum(1)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """reconstruction + β · w · Σ_d max(KL_d, free bits), in nats per dimension, w rising from 0 to 1.

        Free bits compare the batch's mean KL of each dimension (Kingma et al. 2016 (15)): a dimension below the mark
        has no gradient from its KL.
        """
        q = self.encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.TRAIN_NOISE, (self.options.latent,)))
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var))
        mark = self.options.free_bits
        kl = torch.where(kl.mean(0) >= mark, kl, torch.full_like(kl, mark))
        risen = min(1.0, (draws.step + 1) / self.options.kl_warmup) if self.options.kl_warmup else 1.0
        return (self.reconstruction(x, z) + self.options.beta * risen * kl.sum(1)) / self.dims

    # Scoring

    @property
    def forms(self) -> Mapping[str, Form]:
        return {
            "analytic": Form(self.estimate, counts=None),
            "sampled": Form(self.sampled, counts=None),
            "iw": Form(self.importance_weighted, counts="k", kind="iw_bound"),
        }

    def estimate(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One draw of z for the reconstruction, the KL in closed form."""
        q = self.encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var)).sum(1)
        return Bound({"reconstruction": self.reconstruction(x, z), "kl": kl}, evaluations=1)

    def sampled(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """The same with the KL as ln q(z|x) − ln p(z) at the z that was drawn."""
        q = self.encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        return Bound({"reconstruction": self.reconstruction(x, z), "kl": log_ratio(q, z)}, evaluations=1)

    def importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p(x|z_j) p(z_j)/q(z_j|x)  [Burda et al. 2016 (8)]; one term, as the sum is inside."""
        q = self.encode(to_unit(x, self.levels))
        noise = draws.normals(Stream.SCORE_NOISE, (self.options.latent,))
        costs = []
        for _, eps in zip(range(k), noise, strict=False):
            z = q.sample(eps)
            costs.append(self.reconstruction(x, z).double() + log_ratio(q, z).double())
        return Bound({"importance_weighted": math.log(k) - torch.logsumexp(-torch.stack(costs), 0)}, evaluations=k)

    @torch.no_grad()
    def diagnostics(self, images: Tensor, batch: int = 256) -> dict[str, object]:
        """KL of each dimension of z in nats, averaged over the images, and how many are active."""
        parts = [self.encode(to_unit(x.to(self.device), self.levels)) for x in torch.split(images, batch)]
        mean, var = (torch.cat(part).double().cpu() for part in zip(*parts, strict=True))
        kl = kl_normal(mean, var, torch.zeros_like(mean), torch.ones_like(var)).mean(0)
        active = int((mean.var(0) > ACTIVE).sum()) if len(mean) > 1 else None
        found: dict[str, object] = {"kl_per_dimension": kl.tolist(), "active_units": active}
        if active == 0:
            found["collapsed"] = "posterior collapse: no dimension of z says anything about x"
        return {"latents": found}

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.describe_sampling(settings)
        z = normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,)).to(self.device)
        mean = self.decode(z).expectation()
        yield Frame(1, 1, mean, mean)

    def describe_sampling(self, settings: SampleSettings) -> str:
        for option, value in (("--sampler", settings.sampler), ("--steps", settings.steps), ("--eta", settings.eta)):
            if value is not None:
                raise InputError(option, "a vae draws its images in one step; leave it out")
        return "z from the prior, pixels at the mean of p(x|z)"

    def facts(self) -> dict[str, object]:
        return {"p(x|z)": self.law}


def log_ratio(q: Gaussian, z: Tensor) -> Tensor:
    """ln q(z|x) − ln N(z; 0, I) of each row, in nats, shape (B,)."""
    prior = Gaussian(torch.zeros_like(z), torch.ones_like(z))
    return (q.log_prob(z) - prior.log_prob(z)).sum(1)


OPTIONS, MODEL = VAEOptions, VAE
