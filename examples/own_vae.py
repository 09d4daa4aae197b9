"""A VAE with your own encoder, decoder and images, and its bound in three forms, with errors."""

import numpy as np
import torch
from torch import nn

import nelbo

LATENT = 8


class Encoder(nn.Module):
    """x on [−1, 1], shape (B, 1, 8, 8) → μ and ln σ² of q(z|x), shape (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 2 * LATENT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Decoder(nn.Sequential):
    """z, shape (B, 8) → μ and ln σ of every pixel, shape (B, 2, 8, 8)."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(LATENT, 128), nn.SiLU(), nn.Linear(128, 2 * 64), nn.Unflatten(1, (2, 8, 8)))


def main(out: str = "runs/my-vae", steps: int = 1000) -> None:
    images = (np.random.default_rng(0).random((500, 1, 8, 8)) ** 2 * 16).round().astype(np.uint8)  # levels 0 … 16
    model = nelbo.VAE(Encoder(), Decoder(), shape=(1, 8, 8), levels=17, latent=LATENT, likelihood="normal")
    run = nelbo.fit(model, images, steps=steps, out=out)
    print(nelbo.load(out, encoder=Encoder(), decoder=Decoder()).sample(4).shape)
    for form in ("analytic", "sampled", "iw"):
        print(run.score(form=form))


if __name__ == "__main__":
    main()
