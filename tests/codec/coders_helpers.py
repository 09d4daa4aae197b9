"""Small models with random weights, exact sizes of stacks, and the costs of images at given latents without a codec."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from torch import Tensor

from nelbo.codec.batches import BatchCoder, float64
from nelbo.codec.chain import ChainCoder
from nelbo.codec.coder import Coder, EachCoder, coder_for
from nelbo.codec.hvae import BottomUpCoder, HVAECoder
from nelbo.codec.stack import Normals, Stack
from nelbo.codec.vae import VAECoder
from nelbo.diffusion.process import marginal, transition
from nelbo.models._diffusion_clusters import shown_clusters
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.base import GenerativeModel
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import in_steps, with_variance
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian

SHAPE = (1, 6, 6)
UNET = {"widths": (16, 16), "attention": (), "blocks": 1, "fine_blocks": 1}
PYRAMID = {"widths": (16, 16), "blocks": 1, "fine_blocks": 0}


def shaken(kind: Any, options: Any, levels: int = 256, size: float = 0.03) -> Any:
    """A model of these options with noise in its weights, so that no layer is zero; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: GenerativeModel = kind.from_options(options.resolved(SHAPE), SHAPE, levels)
        with torch.no_grad():
            for weight in model.parameters():
                weight += size * torch.randn(weight.shape)
    return model.eval()


def images_of(n: int, levels: int = 256, shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> np.ndarray:
    """Images with many pixels at the outermost levels, as real ones have."""
    rng = np.random.default_rng(seed)
    smooth = rng.normal(0.4, 0.5, (n, *shape)).clip(0, 1) * (levels - 1)
    return smooth.round().astype(np.uint8)


def a_vdm(steps: int = 6, clusters: int = 0, **options: Any) -> VDM:
    """A vdm in steps by moments."""
    model = shaken(VDM, VDMOptions(**UNET, clusters=clusters, **options), size=0.01)  # no escapes
    if clusters:
        model.clusters.learn(torch.from_numpy(images_of(100)), 256, seed=0)
    moments = "moments" if options.get("head", "levels") == "levels" else None
    return in_steps(model, steps - 1, reverse_variance=moments)  # type: ignore[return-value]


def a_ddpm(**options: Any) -> DDPM:
    """A ddpm of 12 steps with learned variances."""
    return shaken(DDPM, DDPMOptions(**UNET, clusters=0, timesteps=12, schedule="cosine", **options))


def a_vae(levels: int = 256, **options: Any) -> VAE:
    """A vae of 5 latents."""
    return shaken(VAE, VAEOptions(**PYRAMID, latent=5, **options), levels)


def an_hvae(**options: Any) -> HVAE:
    """A hierarchical vae of 3 levels."""
    return shaken(HVAE, HVAEOptions(**PYRAMID, latent=2, depth=3, **options))


MODELS: dict[str, Callable[[], Any]] = {
    "vdm": a_vdm,
    "vdm-clusters": lambda: a_vdm(clusters=3),
    "vdm-v": lambda: a_vdm(head="v"),
    "vdm-one-latent": lambda: in_steps(a_vdm(2), 1, reverse_variance="moments"),
    "ddpm": a_ddpm,
    "ddpm-moments": lambda: with_variance(a_ddpm(), "moments"),
    "ddpm-beta": lambda: a_ddpm(reverse_variance="beta", decoder_variance="beta_1"),
    "vae": a_vae,
    "vae-normal": lambda: a_vae(decoder="normal"),
    "vae-binary": lambda: a_vae(levels=2),
    "hvae": an_hvae,
    "hvae-stream": lambda: an_hvae(stream=True),
    "hvae-bottom-up": lambda: an_hvae(inference="bottom-up"),
}


def coder_of(name: str, in_flight: int = 3) -> tuple[Any, Any]:
    """A small model of this name, and its coder."""
    model = MODELS[name]()
    coder: Coder | EachCoder = coder_for(model, images=images_of(20, model.levels))
    return model, coder_for(model, {**coder.settings, "in_flight": in_flight})


def random_words(count: int, seed: int = 2) -> np.ndarray:
    """Words to sample from."""
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


def bits(stack: Stack) -> float:
    """log2 of the number that a stack is: its size without rounding to words."""
    count, state = stack.coder.pos()
    return 32 * count + math.log2(state)


@contextmanager
def sampled_latents(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A list that receives what every law without escapes pops: the sampled latents in whole numbers."""
    found: list[np.ndarray] = []
    pop = Normals.pop

    def recorded(law: Normals, stack: Stack) -> np.ndarray:
        z = pop(law, stack)
        found.extend([] if law.escapes else [z])
        return z

    with monkeypatch.context() as patch:
        patch.setattr(Normals, "pop", recorded)
        yield found


def net_size(coder: BatchCoder, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[np.ndarray]]:
    """The bits that one batch of images adds to a stack, and the latents that were sampled."""
    stack = Stack(random_words(4 * coder.initial_words()))
    before = bits(stack)
    with sampled_latents(monkeypatch) as z, float64():
        coder.push(stack, images)
    return bits(stack) - before, z


LEAST = 2.0**-24
"""The probability that a stack adds to that of every integer."""
ESCAPE = 32 * math.log(2)
"""Nats of an integer beyond a law's domain, after the escape."""


def with_least(nll: Any) -> float:
    """The sum of costs in nats, each of a probability to which the stack has added its least."""
    return -float(np.log(np.exp(-np.asarray(nll)) + LEAST).sum())


def cost_of(law: Gaussian, z: Tensor, width: float | np.ndarray) -> float:
    """−ln of the mass of the bins around z, in nats, summed, with the least probability and escapes."""
    mean, std = law.mean.expand_as(z).numpy(), law.var.sqrt().expand_as(z).numpy()
    centre = -np.abs(z.numpy() - mean)  # in the lower tail
    upper, lower = log_ndtr((centre + width / 2) / std), log_ndtr((centre - width / 2) / std)
    escaped = np.abs(centre) > reach_of(std / width) * width
    return with_least(-(upper + np.log(-np.expm1(lower - upper)))) + ESCAPE * int(escaped.sum())


def reach_of(std: np.ndarray) -> np.ndarray:
    """Half the domain of a law, for σ in bins: 8 times the next power of two, from 2 on; its rounding makes 2 less."""
    return 8 * 2.0 ** np.ceil(np.log2(0.999 * std)).clip(1)


def chain_cost(coder: ChainCoder, images: np.ndarray, sampled: list[np.ndarray]) -> float:
    """−ln p(x, z_1 … z_K)/q(z_1 … z_K|x) of bins, in nats, from the laws of the bound in torch."""
    widths = [step.width for step in coder.steps]
    with float64():
        x = torch.from_numpy(images)
        told = shown_clusters(coder.model, x)
        bound, x_0 = bound_of(told), to_unit(x, coder.levels)
        gammas = [torch.full((len(images),), step.gamma) for step in coder.steps]
        z = [torch.from_numpy(some * width).reshape(x_0.shape) for some, width in zip(sampled, widths, strict=True)]
        total = with_least(bound.pixel_nll(x, z[0])) - cost_of(marginal(x_0, gammas[0]), z[0], widths[0])
        for k in range(len(z) - 1):
            total += cost_of(bound.reverse(z[k + 1], gammas[k], gammas[k + 1]), z[k], widths[k])
            total -= cost_of(transition(z[k], gammas[k], gammas[k + 1]), z[k + 1], widths[k + 1])
        clusters = told.clusters
        if clusters is not None:
            total += float(clusters.cost(clusters(x_0)).sum())
        return total + cost_of(standard(z[-1]), z[-1], widths[-1])


def vae_cost(coder: VAECoder, images: np.ndarray, sampled: list[np.ndarray]) -> float:
    """The same of a VAE."""
    model, widths = coder.laws.model, coder.laws.widths
    with float64():
        x = torch.from_numpy(images)
        z = torch.from_numpy(sampled[0].reshape(len(images), -1) * widths)
        q = model._encode(to_unit(x, model.levels))
        return with_least(model._pixel_nll(x, z)) + cost_of(standard(z), z, widths) - cost_of(q, z, widths)


def hvae_cost(coder: HVAECoder, images: np.ndarray, sampled: list[np.ndarray]) -> float:
    """The same of a hierarchical VAE, along the model's own walk with the noise that leads to these latents."""
    model, widths = coder.model, coder.widths
    with float64():
        x = torch.from_numpy(images)
        order = sampled if isinstance(coder, BottomUpCoder) else sampled[::-1]
        maps = zip(order, widths, model.ladder.maps, strict=True)
        z = [torch.from_numpy(some * width).reshape(-1, *size) for some, width, size in maps]
        steps = replayed(model, x, z)
        found = with_least(steps[0])
        for q, p, some, width in zip(*steps[1:], z, widths, strict=True):
            found += cost_of(p, some, width) - cost_of(q, some, width)
        return found


def replayed(model: HVAE, x: Tensor, z: list[Tensor]) -> tuple[Tensor, list[Gaussian], list[Gaussian]]:
    """−ln p(x|z_1) of each pixel, and q and p of each level at these latents, written out from the equations."""
    from nelbo.models._latent import relative_gaussian

    x_0, top = to_unit(x, model.levels), standard(z[-1])
    if not model.downwards:
        below = [x_0, *z]
        features = [model._features(some, t, None) for t, some in enumerate(z, 1)]
        q = [model._above(below[t], t + 1) for t in range(len(z))]
        p = [*(model._below(features[t], t) for t in range(1, len(z))), top]
        return model._pixel_nll(x, features[0]), q, p
    seen, above, q, p = model.encoder.pyramid(x_0), None, [], []
    for t in range(len(z), 0, -1):
        p.append(top if above is None else model._below(above, t))
        q.append(relative_gaussian(p[-1], model.encoder(seen, above, t)))
        above = model._features(z[t - 1], t, above)
    return model._pixel_nll(x, above), q[::-1], p[::-1]


def standard(z: Tensor) -> Gaussian:
    """N(0, I)."""
    return Gaussian(torch.zeros_like(z), torch.ones_like(z))


def cost_in_bits(coder: Any, images: np.ndarray, z: list[np.ndarray]) -> float:
    """The cost of images at these latents, in bits."""
    kinds = {ChainCoder: chain_cost, VAECoder: vae_cost, HVAECoder: hvae_cost}
    cost = next(cost for kind, cost in kinds.items() if isinstance(coder, kind))
    return cost(coder, images, z) / math.log(2)  # type: ignore[arg-type]
