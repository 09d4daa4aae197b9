"""Variational autoencoders (Kingma & Welling 2014): an encoder q(z|x), a decoder p(x|z), and a bound of two terms.

    −ln p(x) ≤ E_{q(z|x)}[−ln p(x|z)] + KL(q(z|x) ‖ N(0, I))              reconstruction + kl

q(z|x) = N(μ(x), σ²(x)) with independent components; z = μ + σ ε carries the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nelbo.models._latent import LatentOptions, PixelLaw, require_drawing, tempered
from nelbo.models._vae_inspector import VAEInspector
from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Estimator, Forms
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.bound import Bound
from nelbo.theory.importance import importance_weighted
from nelbo.theory.likelihoods import to_default_dtype, to_unit
from nelbo.theory.normal import Gaussian, kl_normal


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

    def _encode(self, x_0: Tensor) -> Gaussian:
        """q(z|x) for images on [−1, 1], in torch's default type, shapes (B, latent)."""
        mean, log_var = to_default_dtype(self.encoder(x_0)).chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(-20.0, 10.0).exp())

    def _reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z) of each image, in nats, shape (B,)."""
        return self.law.nll(self.decoder(z), x)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """reconstruction + β · w · Σ_d max(KL_d, free bits), in nats per dimension, w rising from 0 to 1.

        Free bits compare the batch's mean KL of each dimension (Kingma et al. 2016 (15)): a dimension below the mark
        has no gradient from its KL.
        """
        q = self._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.TRAIN_NOISE, (self.options.latent,)))
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var))
        mark = self.options.free_bits
        kl = torch.where(self.gather_batch(kl.detach()).mean(0) >= mark, kl, torch.full_like(kl, mark))
        return (self._reconstruction(x, z) + self.options.kl_weight(draws.step) * kl.sum(1)) / self.dims

    # Scoring

    @property
    def forms(self) -> Forms:
        estimators = {
            "analytic": Estimator(self._analytic, counts=None),
            "sampled": Estimator(self._sampled, counts=None),
            "iw": Estimator(self._importance_weighted, counts="k", kind="iw_bound"),
        }
        return Forms(self.family, estimators)

    def _analytic(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One draw of z for the reconstruction, the KL in closed form."""
        q = self._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var)).sum(1)
        return Bound({"reconstruction": self._reconstruction(x, z), "kl": kl}, evaluations=1)

    def _sampled(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """The same with the KL as ln q(z|x) − ln p(z) at the z that was drawn."""
        q = self._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        return Bound({"reconstruction": self._reconstruction(x, z), "kl": log_ratio(q, z)}, evaluations=1)

    def _importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p(x|z_j) p(z_j)/q(z_j|x)  [Burda et al. 2016 (8)]; one term, as the sum is inside."""
        q = self._encode(to_unit(x, self.levels))
        noise = draws.normal_iter(Stream.SCORE_NOISE, (self.options.latent,))
        costs = []
        for _, eps in zip(range(k), noise, strict=False):
            z = q.sample(eps)
            costs.append(self._reconstruction(x, z).double() + log_ratio(q, z).double())
        return Bound({"importance_weighted": importance_weighted(torch.stack(costs))}, evaluations=k)

    @property
    def inspector(self) -> VAEInspector:
        return VAEInspector(self)

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        require_drawing(self.family, settings)
        z = tempered(normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,)), settings).to(self.device)
        mean = self.law(self.decoder(z)).expectation()
        yield Frame(1, 1, mean, mean)


def log_ratio(q: Gaussian, z: Tensor) -> Tensor:
    """ln q(z|x) − ln N(z; 0, I) of each row, in nats, shape (B,)."""
    prior = Gaussian(torch.zeros_like(z), torch.ones_like(z))
    return (q.log_prob(z) - prior.log_prob(z)).sum(1)


OPTIONS, MODEL = VAEOptions, VAE
