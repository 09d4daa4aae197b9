"""Variational autoencoders (Kingma & Welling 2014): an encoder q(z|x), a decoder p(x|z), and a bound of two terms.

    −ln p(x) ≤ E_{q(z|x)}[−ln p(x|z)] + KL(q(z|x) ‖ N(0, I))              reconstruction + kl

q(z|x) = N(μ(x), σ²(x)) has independent components; z = μ + σ ε carries the gradient.

With labels y both networks also see y, and this is the bound of −ln p(x|y) with q(z|x, y), p(x|z, y) and the prior
N(0, I) (Sohn et al. 2015). Labels that are hidden in training teach the same networks the bound of −ln p(x).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, Unpack

import torch
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.diffusion.known import NOTHING, Known
from nelbo.models._checks import checked_output
from nelbo.models._labels import checked_classes, drawn_labels, given, given_labels, label_settings, shown_labels
from nelbo.models._latent import KLSettings, LatentOptions, Law, Likelihood, PixelLaw, require_drawing, tempered
from nelbo.models._vae_inspector import VAEInspector
from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Estimator, Forms
from nelbo.models.recipe import PartsRecipe, full_name, made_of
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.options import LABEL_DROPOUT, LabelOptions, Shape
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.bound import Bound
from nelbo.theory.importance import importance_weighted
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian, kl_normal


class VAEOptions(LabelOptions, LatentOptions, AutoencoderOptions):
    """The settings of a VAE."""


class Prior(Protocol):
    """p(z)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """ln p(z) of each row, in nats, shape (B,) for z of shape (B, latent)."""

    def sample(self, noise: Tensor) -> Tensor:
        """z ~ p(z) from standard normal noise, shape (B, latent)."""


class StandardNormal:
    """The prior N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """ln N(z; 0, I) of each row, in nats, shape (B,)."""
        return Gaussian(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)

    def sample(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise


class VAE(LikelihoodModel):
    """An encoder, a decoder, and their bound.

    Args:
        encoder: x_0 on [−1, 1], shape (B, C, H, W) → μ and ln σ² of q(z|x), concatenated, shape (B, 2 · latent).
        decoder: z, shape (B, latent) → the input of the likelihood, shape (B, likelihood.outputs, H, W).
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        latent: the size of z.
        likelihood: p(x|z) as a name (``bernoulli`` with C outputs, ``normal`` 2 C, ``logistic`` 15 C, ``auto``), or a
            function from the decoder's output to a :class:`~nelbo.models._latent.Law`.
        prior: p(z), N(0, I) if None; an object with log_prob(z), shape (B,), and sample(noise), a sample of p(z) from
            standard normal noise. A prior that is a module is trained too.
        beta, free_bits, kl_warmup: settings of the KL in training, see :class:`VAEOptions`.
        classes: the names of the K classes of the images' labels, which makes the model p(x|y) and p(x). The networks
            are then called as encoder(x_0, label=y) and decoder(z, label=y), with y int64 of shape (B,): 1 … K, or 0 if
            unknown, and without ``label`` if all are unknown, which must have the output of zeros.
        label_dropout: the fraction of training images whose label is hidden.

    Raises:
        InputError: a setting is out of its range, or a Bernoulli likelihood has more than two levels.
    """

    family = "vae"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: Shape,
        levels: int,
        *,
        latent: int,
        likelihood: str | Likelihood = "auto",
        prior: Prior | None = None,
        classes: Sequence[str] = (),
        label_dropout: float = LABEL_DROPOUT,
        **settings: Unpack[KLSettings],
    ) -> None:
        super().__init__(shape, levels)
        self.classes, self.label_dropout, self.known = checked_classes(classes), label_dropout, NOTHING
        word = likelihood if isinstance(likelihood, str) else "auto"
        fields = {"latent": latent, "decoder": word, **settings, **label_settings(self.classes, label_dropout)}
        self.options = checked(VAEOptions, fields)
        self.law = PixelLaw(likelihood, shape, levels) if isinstance(likelihood, str) else likelihood
        self.encoder, self.decoder = encoder, decoder
        self.prior: Prior = StandardNormal() if prior is None else prior
        given: dict[str, object] = {"encoder": encoder, "decoder": decoder, "prior": prior}
        given |= {} if isinstance(likelihood, str) else {"likelihood": likelihood}
        self.parts = {name: full_name(part) for name, part in given.items() if part is not None}

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        outputs = PixelLaw(options.decoder, shape, levels).outputs
        networks = (options.widths, options.counts(), len(options.classes))
        defaults = {
            "encoder": lambda: Encoder(shape, 2 * options.latent, *networks),
            "decoder": lambda: Decoder(shape, options.latent, outputs, *networks),
        }
        settings = {name: getattr(options, name) for name in ("latent", "beta", "free_bits", "kl_warmup")}
        given = {"likelihood": options.decoder, **settings, **options.of_labels, **parts}
        return made_of(cls, options, defaults, shape=shape, levels=levels, **given)

    def _encode(self, x_0: Tensor) -> Gaussian:
        """q(z|x, y) for images on [−1, 1], in torch's default dtype, shapes (B, latent)."""
        output = self.encoder(x_0, **self.known.for_batch(len(x_0)).keywords)
        mean, log_var = checked_output("encoder", output, (len(x_0), 2 * self.options.latent)).chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(-20.0, 10.0).exp())

    def _decode(self, z: Tensor) -> Law:
        """p(x|z, y)."""
        return self.law(self.decoder(z, **self.known.for_batch(len(z)).keywords))

    def _log_ratio(self, q: Gaussian, z: Tensor) -> Tensor:
        """ln q(z|x) − ln p(z) of each row, in nats, shape (B,)."""
        return q.log_prob(z).sum(1) - self.prior.log_prob(z)

    def _reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z, y) of each image, in nats, shape (B,)."""
        return self._pixel_nll(x, z).flatten(1).sum(1)

    def _pixel_nll(self, x: Tensor, z: Tensor) -> Tensor:
        """−ln p(x|z, y) of each pixel, in nats, shape (B, C, H, W)."""
        return -self._decode(z).log_prob(x)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """reconstruction + β · w · Σ_d max(KL_d, free bits), in nats per dimension, with w rising from 0 to 1.

        Free bits compare the batch's mean KL of each dimension (Kingma et al. 2016 (15)): a dimension below
        ``free_bits`` gets no gradient from its KL.
        """
        model = given(self, shown_labels(draws, self.label_dropout))
        q = model._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.TRAIN_NOISE, (self.options.latent,)))
        if isinstance(self.prior, StandardNormal):
            kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var))
        else:
            kl = self._log_ratio(q, z)[:, None]
        mark = self.options.free_bits
        kl = torch.where(self.gather_batch(kl.detach()).mean(0) >= mark, kl, torch.full_like(kl, mark))
        return (model._reconstruction(x, z) + self.options.kl_weight(draws.step) * kl.sum(1)) / self.dims

    # Scoring

    @property
    def forms(self) -> Forms:
        standard = isinstance(self.prior, StandardNormal)
        estimators = {"analytic": Estimator(given_labels(self, VAE._analytic), counts=None)} if standard else {}
        estimators["sampled"] = Estimator(given_labels(self, VAE._sampled), counts=None)
        estimators["iw"] = Estimator(given_labels(self, VAE._importance_weighted), counts="k", kind="iw_bound")
        absent = {} if standard else {"analytic": "the prior is from Python, and its KL has no closed form"}
        return Forms(self.family, estimators, absent=absent)

    def _analytic(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One sample of z for the reconstruction, and the KL in closed form."""
        q = self._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        kl = kl_normal(q.mean, q.var, torch.zeros_like(q.mean), torch.ones_like(q.var)).sum(1)
        return Bound.of_pixels({"reconstruction": self._pixel_nll(x, z)}, {"kl": kl}, 1)

    def _sampled(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One sample of z, with the KL estimated by ln q(z|x) − ln p(z)."""
        q = self._encode(to_unit(x, self.levels))
        z = q.sample(draws.normal(Stream.SCORE_NOISE, (self.options.latent,)))
        return Bound.of_pixels({"reconstruction": self._pixel_nll(x, z)}, {"kl": self._log_ratio(q, z)}, 1)

    def _importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p(x|z_j) p(z_j)/q(z_j|x)  [Burda et al. 2016 (8)]: one term."""
        q = self._encode(to_unit(x, self.levels))
        noise = draws.normal_iter(Stream.SCORE_NOISE, (self.options.latent,))
        costs = []
        for _, eps in zip(range(k), noise, strict=False):
            z = q.sample(eps)
            costs.append(self._reconstruction(x, z).double() + self._log_ratio(q, z).double())
        return Bound({"importance_weighted": importance_weighted(torch.stack(costs))}, evaluations=k)

    @property
    def inspector(self) -> VAEInspector:
        return VAEInspector(self)

    @property
    def recipe(self) -> PartsRecipe:
        return PartsRecipe(self)

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        require_drawing(self, settings)
        noise = tempered(normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,), device=self.device), settings)
        model = given(self, Known(label=drawn_labels(self, indices, settings)))
        mean = model._decode(self.prior.sample(noise)).expectation()
        yield Frame(1, 1, mean, mean)


OPTIONS, MODEL = VAEOptions, VAE
