"""A diffusion model with your own network, images, schedule, weight and sampler, and its bound in three forms."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import nelbo
from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.process import posterior
from nelbo.diffusion.samplers import Before
from nelbo.theory.normal import Gaussian


class MyNet(nn.Module):
    """z, shape (B, 1, 8, 8), and γ, shape (B,) → a prediction of the shape of z."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        return self.layers(torch.cat([z.flatten(1), gamma[:, None] / 10], 1)).reshape(z.shape)


def my_schedule(t: Tensor) -> Tensor:  # γ(t) = −ln SNR(t), increasing from the image, t = 0, to noise
    return -7.0 + 14.0 * t


def my_weight(gamma: Tensor) -> Tensor:  # w(γ) on the bound's integrand
    return torch.sigmoid(gamma + 3.0)


class MySampler(nelbo.samplers.Sampler):  # one step from z_t to the distribution of z_s
    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        return posterior(denoised.x_0, z_t, gamma_s, gamma_t)


def main(out: str = "runs/mine", steps: int = 1000) -> None:
    images = (np.random.default_rng(0).random((500, 1, 8, 8)) ** 2 * 16).round().astype(np.uint8)  # levels 0 … 16
    parts: dict[str, Any] = {"network": MyNet(), "schedule": my_schedule, "objective": my_weight}
    run = nelbo.fit(nelbo.Diffusion(shape=(1, 8, 8), levels=17, timesteps=100, **parts), images, steps=steps, out=out)
    print(nelbo.load(out, **parts).sample(4, sampler=MySampler(), steps=50).shape)
    for form in ("denoising", "consistency", "trajectory"):
        print(run.score(form=form))


if __name__ == "__main__":
    main()
