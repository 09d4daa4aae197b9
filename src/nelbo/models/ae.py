"""Autoencoders: an encoder F_w, a decoder G_w′, and the squared error between an image and its reconstruction.

    loss = ‖x − G(F(x))‖²

There is no p(x). To sample, the model decodes samples of a Gaussian that is fitted to the codes F(x) during training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.models._ae_inspector import AEInspector
from nelbo.models._checks import checked_output
from nelbo.models._latent import tempered
from nelbo.models.base import GenerativeModel
from nelbo.models.recipe import PartsRecipe, full_name, made_of
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.options import Shape
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.likelihoods import to_default_dtype, to_unit

MEMORY = 0.99
"""Decay of the codes' mean and covariance at each step, after the first hundred steps."""


class AEOptions(AutoencoderOptions):
    """The settings of an autoencoder."""


class AE(GenerativeModel):
    """An encoder, a decoder, and the mean and covariance of the codes.

    Args:
        encoder: x_0 on [−1, 1], shape (B, C, H, W) → the code, shape (B, latent).
        decoder: a code → the image on [−1, 1], shape (B, C, H, W).
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        latent: the size of a code.

    Raises:
        InputError: ``latent`` is out of its range.
    """

    family = "ae"

    code_mean: Tensor
    code_cov: Tensor
    seen: Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module, shape: Shape, levels: int, *, latent: int) -> None:
        super().__init__(shape, levels)
        self.options = checked(AEOptions, {"latent": latent})
        self.encoder, self.decoder = encoder, decoder
        self.parts = {"encoder": full_name(encoder), "decoder": full_name(decoder)}
        self.register_buffer("code_mean", torch.zeros(latent, dtype=torch.float64))
        self.register_buffer("code_cov", torch.eye(latent, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        networks = (options.widths, options.counts())
        defaults = {
            "encoder": lambda: Encoder(shape, options.latent, *networks),
            "decoder": lambda: Decoder(shape, options.latent, shape[0], *networks),
        }
        return made_of(cls, options, defaults, shape=shape, levels=levels, latent=options.latent, **parts)

    def encode(self, x_0: Tensor) -> Tensor:
        """F(x) for images on [−1, 1], in torch's default dtype, shape (B, latent)."""
        return checked_output("encoder", self.encoder(x_0), (len(x_0), self.options.latent))

    def decode(self, z: Tensor) -> Tensor:
        """G(z) on the scale where levels fill [−1, 1], in torch's default dtype, shape (B, C, H, W)."""
        return checked_output("decoder", self.decoder(z), (len(z), *self.shape))

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """‖x − G(F(x))‖² per dimension, on the scale where levels fill [−1, 1]."""
        x_0 = to_unit(x, self.levels)
        code = self.encode(x_0)
        if self.training:
            self._remember(self.gather_batch(code.detach()).double())
        return (x_0 - self.decode(code)).square().flatten(1).mean(1)

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        """Update the mean and covariance of the codes with a batch of codes, shape (B, latent)."""
        keep = min(MEMORY, float(self.seen / (self.seen + 1)))
        self.seen += 1
        mean = codes.mean(0)
        centred = codes - mean
        between = (mean - self.code_mean)[:, None]
        # The covariance of a mixture of the old distribution and the batch's: within both, and between their means.
        within = keep * self.code_cov + (1 - keep) * centred.T @ centred / len(codes)
        self.code_cov.copy_(within + keep * (1 - keep) * between @ between.T)
        self.code_mean.copy_(keep * self.code_mean + (1 - keep) * mean)

    @property
    def inspector(self) -> AEInspector:
        return AEInspector(self)

    @property
    def recipe(self) -> PartsRecipe:
        return PartsRecipe(self)

    @torch.no_grad()
    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.inspector.describe_sampling(settings)  # raises for unused settings
        noise = normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,), torch.float64, self.device)
        noise = tempered(noise, settings)
        variances, basis = torch.linalg.eigh(self.code_cov)
        z = self.code_mean + (noise * variances.clamp(min=0).sqrt()) @ basis.T
        x = self.decode(to_default_dtype(z))
        yield Frame(1, 1, x, x)


OPTIONS, MODEL = AEOptions, AE
