"""Autoencoders: an encoder F_w, a decoder G_w′, and the squared error between an image and its reconstruction.

    loss = ‖x − G(F(x))‖²

There is no p(x) in it. To draw, a Gaussian is fitted to the codes F(x) beside the training, and decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nelbo.likelihoods import full, to_unit
from nelbo.models._checks import Images, checked_images
from nelbo.models._latent import ROWS, between, in_one_step, said, tempered
from nelbo.models.base import Frame, GenerativeModel, SampleSettings
from nelbo.nn.autoencoder import AutoencoderOptions, Decoder, Encoder
from nelbo.rng import Draws, Stream, normal

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
    why_no_bound = "an autoencoder says nothing of how likely an image is"

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
        return full(self.encoder(x_0))

    def decode(self, z: Tensor) -> Tensor:
        """G(z) on the scale where levels fill [−1, 1], in torch's default type, shape (B, C, H, W)."""
        return full(self.decoder(z))

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """‖x − G(F(x))‖² per dimension, on the scale where levels fill [−1, 1]."""
        x_0 = to_unit(x, self.levels)
        code = self.encode(x_0)
        if self.training:
            self.remember(self.gather_batch(code.detach()).double())
        return (x_0 - self.decode(code)).square().flatten(1).mean(1)

    @torch.no_grad()
    def remember(self, codes: Tensor) -> None:
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

    def measures(self, images: Images, start: int = 0, batch: int = 256) -> dict[str, Tensor]:
        """The squared error of the reconstruction, per dimension and on the scale where levels fill [−1, 1]."""
        images = checked_images(self, images)
        parts = []
        for x in torch.split(images, batch):
            x_0 = to_unit(x.to(self.device), self.levels)
            parts.append((x_0 - self.decode(self.encode(x_0))).square().flatten(1).mean(1).cpu())
        return {"squared_error": torch.cat(parts)}

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        images = checked_images(self, images)
        x_0 = to_unit(images.to(self.device), self.levels)
        z = self.encode(x_0)
        lines = between(z[:ROWS], z[-ROWS:].flip(0), len(x_0))
        return [
            ("images, and their reconstructions", torch.cat([x_0, self.decode(z)]), len(x_0)),
            ("decoded from straight lines between codes", self.decode(lines), len(x_0)),
        ]

    @torch.no_grad()
    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        self.describe_sampling(settings)
        noise = normal(seed, Stream.SAMPLE, 0, indices, (self.options.latent,), torch.float64)
        noise = tempered(noise, settings).to(self.device)
        variances, basis = torch.linalg.eigh(self.code_cov)
        z = self.code_mean + (noise * variances.clamp(min=0).sqrt()) @ basis.T
        x = self.decode(full(z))
        yield Frame(1, 1, x, x)

    def describe_sampling(self, settings: SampleSettings) -> str:
        in_one_step(self.family, settings)
        law = f"a Gaussian that was fitted to the codes of training images{said(settings)}"
        return f"decoded from {law}, for an ae has no law of its own"


OPTIONS, MODEL = AEOptions, AE
