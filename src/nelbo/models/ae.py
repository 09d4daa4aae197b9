"""Autoencoders: an encoder F_w, a decoder G_w′, and the squared error between an image and its reconstruction.

    loss = ‖x − G(F(x))‖²

There is no p(x) in it. To draw, a Gaussian is fitted to the codes F(x) beside the training, and decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nelbo.models._ae_inspector import AEInspector
from nelbo.models._latent import require_drawing, tempered
from nelbo.models.base import GenerativeModel
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.likelihoods import to_default_dtype, to_unit

MEMORY = 0.99
"""How much of the codes' mean and covariance is kept at each step, after the first hundred."""


class AEOptions(AutoencoderOptions):
    """The settings of an autoencoder."""


class AE(GenerativeModel):
    """An encoder, a decoder, and the mean and covariance of the codes.

    Args:
        options: the settings, resolved for ``shape``.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
    """

    family = "ae"

    code_mean: Tensor
    code_cov: Tensor
    seen: Tensor

    def __init__(self, options: AEOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        self.encoder = Encoder(shape, options.latent, options.widths, options.counts())
        self.decoder = Decoder(shape, options.latent, shape[0], options.widths, options.counts())
        self.register_buffer("code_mean", torch.zeros(options.latent, dtype=torch.float64))
        self.register_buffer("code_cov", torch.eye(options.latent, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def encode(self, x_0: Tensor) -> Tensor:
        """F(x) for images on [−1, 1], in torch's default type, shape (B, latent)."""
        return to_default_dtype(self.encoder(x_0))

    def decode(self, z: Tensor) -> Tensor:
        """G(z) on the scale where levels fill [−1, 1], in torch's default type, shape (B, C, H, W)."""
        return to_default_dtype(self.decoder(z))

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """‖x − G(F(x))‖² per dimension, on the scale where levels fill [−1, 1]."""
        x_0 = to_unit(x, self.levels)
        code = self.encode(x_0)
        if self.training:
            self._remember(self.gather_batch(code.detach()).double())
        return (x_0 - self.decode(code)).square().flatten(1).mean(1)

    @torch.no_grad()
    def _remember(self, codes: Tensor) -> None:
        """Let one batch of codes, shape (B, latent), move their mean and second central moment."""
        keep = min(MEMORY, float(self.seen / (self.seen + 1)))
        self.seen += 1
        mean = codes.mean(0)
        centred = codes - mean
        between = (mean - self.code_mean)[:, None]
        # The moment of a mixture of the old law and the batch's: within both, and between their means.
        within = keep * self.code_cov + (1 - keep) * centred.T @ centred / len(codes)
        self.code_cov.copy_(within + keep * (1 - keep) * between @ between.T)
        self.code_mean.copy_(keep * self.code_mean + (1 - keep) * mean)

    @property
    def inspector(self) -> AEInspector:
        return AEInspector(self)

    @torch.no_grad()
    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        require_drawing(self.family, settings)
        noise = normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,), torch.float64)
        noise = tempered(noise, settings).to(self.device)
        variances, basis = torch.linalg.eigh(self.code_cov)
        z = self.code_mean + (noise * variances.clamp(min=0).sqrt()) @ basis.T
        x = self.decode(to_default_dtype(z))
        yield Frame(1, 1, x, x)


OPTIONS, MODEL = AEOptions, AE
