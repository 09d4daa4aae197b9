"""Variational autoencoders (Kingma & Welling 2014): an encoder q(z|x), a decoder p(x|z), and a bound of two terms.

    −ln p(x) ≤ E_{q(z|x)}[−ln p(x|z)] + KL(q(z|x) ‖ N(0, I))              reconstruction + kl

q(z|x) = N(μ(x), σ²(x)) with independent components; z = μ + σ ε carries the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nelbo.bounds import Bound, importance_weighted
from nelbo.diffusion import Gaussian
from nelbo.divergences import kl_normal
from nelbo.likelihoods import full, to_unit
from nelbo.models._checks import Images, checked_images
from nelbo.models._latent import ROWS, LatentOptions, Law, PixelLaw, between, in_one_step, said, tempered
from nelbo.models.base import Form, Frame, LikelihoodModel, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.rng import Draws, Stream, normal

ACTIVE = 0.01
"""A dimension of z is active where the variance over images of its mean exceeds this (Burda et al. 2016)."""


class VAEOptions(LatentOptions, AutoencoderOptions):
    """The settings of a VAE."""


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
        self.law = PixelLaw(options.decoder, shape, levels)
        self.encoder = Encoder(shape, 2 * options.latent, options.widths, options.counts())
        self.decoder = Decoder(shape, options.latent, self.law.outputs, options.widths, options.counts())

    # The two laws

    def encode(self, x_0: Tensor) -> Gaussian:
        """q(z|x) for images on [−1, 1], in torch's default type, shapes (B, latent)."""
        mean, log_var = full(self.encoder(x_0)).chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(-20.0, 10.0).exp())

    def decode(self, z: Tensor) -> Law:
        """p(x|z) for z of shape (B, latent)."""
        return self.law(self.decoder(z))

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z) of each image, in nats, shape (B,)."""
        return self.law.nll(self.decoder(z), x)

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
        kl = torch.where(self.gather_batch(kl.detach()).mean(0) >= mark, kl, torch.full_like(kl, mark))
        return (self.reconstruction(x, z) + self.options.kl_weight(draws.step) * kl.sum(1)) / self.dims

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
        return Bound({"importance_weighted": importance_weighted(torch.stack(costs))}, evaluations=k)

    @torch.no_grad()
    def diagnostics(self, images: Images, batch: int = 256) -> dict[str, object]:
        """KL of each dimension of z in nats, averaged over the images, and how many are active."""
        images = checked_images(self, images)
        parts = [self.encode(to_unit(x.to(self.device), self.levels)) for x in torch.split(images, batch)]
        mean, var = (torch.cat(part).double().cpu() for part in zip(*parts, strict=True))
        kl = kl_normal(mean, var, torch.zeros_like(mean), torch.ones_like(var)).mean(0)
        active = int((mean.var(0) > ACTIVE).sum()) if len(mean) > 1 else None
        return {"kl_per_dimension": kl.tolist(), "active_units": active}

    def ailments(self, found: Mapping[str, object]) -> list[str]:
        """Posterior collapse."""
        dead = "posterior collapse: no dimension of z says anything about x; try --kl-warmup or --free-bits"
        return [dead] if found["active_units"] == 0 else []

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        images = checked_images(self, images)
        x_0 = to_unit(images.to(self.device), self.levels)
        q, columns = self.encode(x_0), len(x_0)
        lines = between(q.mean[:ROWS], q.mean[-ROWS:].flip(0), columns)
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var)).mean(0)
        largest = kl.argsort(descending=True)[:ROWS]
        walk = q.mean[:1, None].repeat(len(largest), columns, 1)
        for row, dimension in enumerate(largest):
            walk[row, :, dimension] = torch.linspace(-3, 3, columns, device=walk.device)
        shown = {
            "images, and the means of p(x|z) at the means of q(z|x)": torch.cat(
                [x_0, self.decode(q.mean).expectation()]
            ),
            "decoded from straight lines between means of q(z|x)": self.decode(lines).expectation(),
            "the first image's z with one dimension from −3 to 3, those of the largest KL": self.decode(
                walk.flatten(0, 1)
            ).expectation(),
        }
        return [(title, x, columns) for title, x in shown.items()]

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.describe_sampling(settings)
        z = tempered(normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,)), settings).to(self.device)
        mean = self.decode(z).expectation()
        yield Frame(1, 1, mean, mean)

    def describe_sampling(self, settings: SampleSettings) -> str:
        in_one_step(self.family, settings)
        return f"z from the prior{said(settings)}, pixels at the mean of p(x|z)"

    def facts(self) -> dict[str, object]:
        return {"p(x|z)": self.law.name}


def log_ratio(q: Gaussian, z: Tensor) -> Tensor:
    """ln q(z|x) − ln N(z; 0, I) of each row, in nats, shape (B,)."""
    prior = Gaussian(torch.zeros_like(z), torch.ones_like(z))
    return (q.log_prob(z) - prior.log_prob(z)).sum(1)


OPTIONS, MODEL = VAEOptions, VAE
