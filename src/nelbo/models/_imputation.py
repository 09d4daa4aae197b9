"""Hidden pixels of a VAE given the seen ones, and images between two images through latents.

A Markov chain alternates z given x and the hidden pixels of x given z. With q(z|x) in place of the posterior of z it is
pseudo-Gibbs sampling (Rezende et al. 2014, appendix F), exact only if q is the posterior. For a VAE, a sample of q is a
proposal that is accepted with probability

    min(1, p(x, z′) q(z|x)/(p(x, z) q(z′|x)))

so that the chain has the model's p(x_hidden | x_seen) as its law, with any q (Mattei & Frellsen 2018, section 3.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nelbo.diffusion.known import NOTHING, Known
from nelbo.models._labels import given
from nelbo.models._latent import Law
from nelbo.models.hvae import HVAE
from nelbo.models.vae import VAE
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_unit

Latents = list[Tensor]
"""All latents of a batch: z, or z_1 … z_T."""
FREE_SWEEPS = 5
"""First sweeps in which every proposal is accepted, because a chain may start where no z explains the pixels."""


class LatentSpace(ABC):
    """q(z|x), p(z) and p(x|z) of a model with latents, for images of integer levels."""

    sizes: list[tuple[int, ...]]
    """The shape of each latent."""

    @abstractmethod
    def infer(self, x: Tensor, noise: Latents) -> Latents:
        """A sample of q(z|x) from standard normal noise; zeros give its mean."""

    @abstractmethod
    def prior(self, noise: Latents) -> Latents:
        """A sample of p(z) from standard normal noise."""

    @abstractmethod
    def law(self, z: Latents) -> Law:
        """p(x|z)."""

    def cost(self, x: Tensor, z: Latents) -> Tensor | None:
        """−ln p(x, z)/q(z|x) of each image, in nats, shape (B,); None if proposals are always accepted."""
        return None

    def noise(self, draws: Draws) -> Latents:
        """Standard normal noise of the latents' shapes."""
        return self.cut(draws.normal(Stream.EDIT, (sum(map(size_of, self.sizes)),)))

    def cut(self, flat: Tensor) -> Latents:
        """Rows of all latents' elements, shape (B, Σ sizes), as latents."""
        parts = torch.split(flat, [size_of(size) for size in self.sizes], 1)
        return [part.reshape(-1, *size) for part, size in zip(parts, self.sizes, strict=True)]


def size_of(shape: tuple[int, ...]) -> int:
    """The number of elements."""
    return int(torch.Size(shape).numel())


class VAESpace(LatentSpace):
    """The latent space of a VAE."""

    def __init__(self, model: VAE) -> None:
        self.model, self.sizes = model, [(model.options.latent,)]

    def infer(self, x: Tensor, noise: Latents) -> Latents:
        return [self.model._encode(to_unit(x, self.model.levels)).sample(noise[0])]

    def prior(self, noise: Latents) -> Latents:
        return [self.model.prior.sample(noise[0])]

    def law(self, z: Latents) -> Law:
        return self.model._decode(z[0])

    def cost(self, x: Tensor, z: Latents) -> Tensor:
        q = self.model._encode(to_unit(x, self.model.levels))
        return self.model._reconstruction(x, z[0]).double() + self.model._log_ratio(q, z[0]).double()


class HVAESpace(LatentSpace):
    """The latent space of a hierarchical VAE."""

    def __init__(self, model: HVAE) -> None:
        self.model, self.sizes = model, [tuple(size) for size in model.ladder.maps]

    def infer(self, x: Tensor, noise: Latents) -> Latents:
        if self.model.downwards:
            return self.model._walk_down(x, noise).latents
        z, found = to_unit(x, self.model.levels), []
        for t, eps in enumerate(noise, 1):
            z = self.model._above(z, t).sample(eps)
            found.append(z)
        return found

    def prior(self, noise: Latents) -> Latents:
        model = self.model
        z, features = model._start(noise[0], len(noise[0])).sample(noise[-1]), None
        found = [z]
        for t in range(model.options.depth, 1, -1):
            features = model._features(z, t, features)
            z = model._below(features, t - 1).sample(noise[t - 2])
            found.append(z)
        return found[::-1]

    def law(self, z: Latents) -> Law:
        return self.model.pixels(self.model.ladder.image(self.model._generate(z, z[::-1])))


def latent_space(model: object, known: Known = NOTHING) -> LatentSpace | None:
    """The latent space of a VAE or hierarchical VAE, with what is known of its images, or None."""
    if isinstance(model, VAE):
        return VAESpace(given(model, known))
    return HVAESpace(given(model, known)) if isinstance(model, HVAE) else None


def draw_levels(law: Law, levels: int, u: Tensor) -> Tensor:
    """Levels of every pixel by the inverse of the distribution function, uint8.

    Args:
        law: p(x|z), pixel by pixel.
        levels: L.
        u: uniform in (0, 1), shape (B, C, H, W).
    """
    below, drawn = torch.zeros_like(u), torch.zeros_like(u)
    for level in range(levels - 1):
        at = torch.full(u.shape, level, device=u.device)
        below = below + law.log_prob(at).to(u.dtype).exp()
        drawn = drawn + (u > below)
    return drawn.to(torch.uint8)


def impute(
    space: LatentSpace, x: Tensor, seen: Tensor, levels: int, sweeps: int, numbers: Callable[[int], Draws]
) -> Iterator[Tensor]:
    """Draw hidden pixels, and yield the images after every sweep; the first z is from the prior.

    Args:
        space: the model.
        x: integer levels, shape (B, C, H, W); hidden pixels are not used.
        seen: where a pixel is seen, boolean, a shape that broadcasts with x.
        levels: L.
        sweeps: z and then all hidden pixels are drawn so often, ≥ 1.
        numbers: 0, 1, … → the random numbers of all images.

    Yields:
        Integer levels, uint8, shape (B, C, H, W).
    """
    shape = tuple(x.shape[1:])
    z = space.prior(space.noise(numbers(0)))
    x = torch.where(seen, x, draw_levels(space.law(z), levels, numbers(0).uniform(Stream.EDIT_CHOICE, shape)))
    for sweep in range(1, sweeps + 1):
        draws = numbers(sweep)
        u = draws.uniform(Stream.EDIT_CHOICE, (size_of(shape) + 1,))
        proposed = space.infer(x, space.noise(draws))
        cost = None if sweep <= FREE_SWEEPS else space.cost(x, z)
        new = None if cost is None else space.cost(x, proposed)
        if cost is None or new is None:
            z = proposed
        else:
            taken = u[:, -1].log() < cost - new
            z = [torch.where(taken.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(z, proposed, strict=True)]
        x = torch.where(seen, x, draw_levels(space.law(z), levels, u[:, :-1].reshape(-1, *shape)))
        yield x
