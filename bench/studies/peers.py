"""Other libraries' usual U-Net and recipe, trained for some minutes, and the distance of their samples.

    make peers          (an environment of its own; then, in it, for example)
    .venv-peers/bin/python bench/run.py peers diffusers --data FOLDER --minutes 30 --width 64 --lr 2e-4

- diffusers: UNet2DModel with two layers at each resolution, predicts ε in 1,000 linear steps, AdamW, EMAModel: the
  recipe of its script for unconditional training. Samples: DDIM, 50 steps.
- lucidrains: Unet and GaussianDiffusion of denoising-diffusion-pytorch with their defaults (v in 1,000 sigmoid steps),
  Adam, average 0.995. Samples: its DDIM, 250 steps.

The images are read, and the samples measured, as by ``nelbo evaluate``, in the features of ``nelbo features --data
FOLDER``. Widths and learning rates are options, so that each library is compared at its best setting.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.data import Dataset
from nelbo.jobs.features import open_features
from nelbo.jobs.run import read_data
from nelbo.metrics.quality import in_batches, measure_modes, measure_quality
from nelbo.options import DataOptions
from nelbo.report.pictures import grid
from nelbo.rng import permutation
from nelbo.theory.likelihoods import to_levels, to_unit

STEPS = 1000


class Peer(ABC):
    """A library's model.

    Attributes:
        model: the module to train.
    """

    model: nn.Module

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """The mean loss of images in [−1, 1]."""

    @abstractmethod
    def average(self) -> None:
        """Update the moving average after a step."""

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """n images in [−1, 1] of the moving average."""


class Diffusers(Peer):
    """UNet2DModel, DDPMScheduler, EMAModel."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        levels = 3 if side <= 32 else 4
        self.model = UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=(width, *[2 * width] * (levels - 1)),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * (levels - 2)),
            up_block_types=(*["UpBlock2D"] * (levels - 2), "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=min(32, width),
        )
        self.shape = (channels, side, side)
        self.noise, self.ddim = DDPMScheduler(STEPS), DDIMScheduler(STEPS)
        self.ema = EMAModel(self.model.parameters(), use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def loss(self, x: Tensor) -> Tensor:
        eps, t = torch.randn_like(x), torch.randint(0, STEPS, (len(x),))
        found = self.model(self.noise.add_noise(x, eps, t), t).sample
        return nn.functional.mse_loss(found.float(), eps)

    def average(self) -> None:
        self.ema.step(self.model.parameters())

    def sample(self, n: int) -> Tensor:
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        self.ddim.set_timesteps(50)
        z = torch.randn(n, *self.shape)
        for t in self.ddim.timesteps:
            z = self.ddim.step(self.model(z, t).sample, t, z, eta=1.0).prev_sample
        self.ema.restore(self.model.parameters())
        return z


class Lucidrains(Peer):
    """Unet and GaussianDiffusion of denoising-diffusion-pytorch."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        without_torchvision()
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        multiples = (1, 2, 4) if side <= 32 else (1, 2, 4, 8)
        network = Unet(width, channels=channels, dim_mults=multiples, flash_attn=False)
        self.model = GaussianDiffusion(network, image_size=side, timesteps=STEPS, sampling_timesteps=250)
        self.ema = EMA(self.model, beta=0.995, update_every=10)

    def loss(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(0.5 * (x + 1))  # it scales [0, 1] to [−1, 1] itself
        return found

    def average(self) -> None:
        self.ema.update()

    def sample(self, n: int) -> Tensor:
        images: Tensor = self.ema.ema_model.sample(batch_size=n)
        return 2 * images - 1


def without_torchvision() -> None:
    """Let the package be imported without torchvision, and without metrics that need it; only its Trainer uses both."""
    names = {"torchvision": ("transforms", "utils"), "pytorch_fid": ()}
    names |= {"pytorch_fid.fid_score": ("calculate_frechet_distance",), "pytorch_fid.inception": ("InceptionV3",)}
    for name, members in names.items():
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, None)
        sys.modules.setdefault(name, module)


PEERS = {"diffusers": Diffusers, "lucidrains": Lucidrains}


def batches(images: Tensor, size: int, levels: int, flip: bool) -> Iterator[Tensor]:
    """Batches in [−1, 1], in a new order in each pass, mirrored with probability ½ if ``flip``."""
    step = 0
    while True:
        order = torch.from_numpy(permutation(0, step, len(images)))
        for rows in torch.split(order, size):
            x = to_unit(images[rows], levels)
            if flip:
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            yield x
        step += 1


def train(peer: Peer, dataset: Dataset, given: argparse.Namespace) -> int:
    """Train for the given minutes; returns the number of steps."""
    optimizer = torch.optim.AdamW(peer.model.parameters(), lr=given.lr)
    started, steps = time.monotonic(), 0
    for x in batches(dataset.split("train"), given.batch_size, dataset.levels, given.flip):
        with torch.autocast("cpu", torch.bfloat16, enabled=given.bf16):
            loss = peer.loss(x)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(peer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        peer.average()
        steps += 1
        if time.monotonic() - started >= 60 * given.minutes:
            break
    return steps


def main() -> None:
    """Train, draw, measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--data", required=True)
    parser.add_argument("--size")
    parser.add_argument("--fit")
    parser.add_argument("--channels", type=int)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--split", default="val")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    reading = {name: getattr(given, name) for name in ("data", "size", "fit", "channels")}
    dataset = read_data(checked(DataOptions, {name: value for name, value in reading.items() if value is not None}))
    channels, height, width = dataset.shape
    if height != width or height % 4:
        sys.exit(f"images of {height}×{width}, but these networks need squares with a side that 4 divides")
    peer = PEERS[given.peer](channels, height, given.width)
    steps = train(peer, dataset, given)
    with torch.no_grad():
        parts = [peer.sample(min(64, given.samples - done)) for done in range(0, given.samples, 64)]
    drawn = to_levels(torch.cat(parts).clamp(-1, 1), dataset.levels)
    if given.picture:
        grid(drawn[:64], dataset.levels).save(given.picture)
    space = open_features(None, dataset, "cpu")
    features = [in_batches(space.embed, each) for each in (drawn, dataset.split(given.split), dataset.split("train"))]
    quality = measure_quality(*features)
    found = {"peer": given.peer, "width": given.width, "lr": given.lr, "minutes": given.minutes, "steps": steps}
    found |= {"parameters": sum(p.numel() for p in peer.model.parameters()), "fd": quality.fd._asdict()}
    found |= {"kd": quality.kd._asdict(), "manifold": quality.manifold._asdict()}
    if space.classify is not None:
        modes = measure_modes(*(in_batches(space.classify, each) for each in (drawn, dataset.split(given.split))))
        found |= {"readable": modes.readable, "readable_images": modes.readable_images}
    print(json.dumps(found, default=lambda value: np.asarray(value).tolist()))


if __name__ == "__main__":
    main()
