"""Generative adversarial networks (Goodfellow et al. 2014): a generator G and a discriminator D in a minimax game.

    min_G max_D V(D, G) = E_x[ln D(x)] + E_z[ln(1 − D(G(z)))]                                   GAN (1)

There is no p(x) in it. What D says on images that training has not seen is a bound on a divergence, from below: see
:mod:`nelbo.theory.adversarial`. Both networks take a step at once, each on its own loss. What D knows of the
samples' faults can also be put to use when they are drawn: see :meth:`GAN.frames`.

G is continuous, and between any two kinds of image it draws what is neither. So both players are told a cluster c of
the training images (Liu et al. 2020, there in D's features; Casanova et al. 2021): G draws c by its share and then
G(z, c), D judges x beside c(x), and the game is one of p(x, c). No labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import InputError
from nelbo.models._checks import Images, checked_images
from nelbo.models._collapse import TOO_EARLY, collapse_line, spread
from nelbo.models._latent import ROWS, in_one_step, said, tempered
from nelbo.models.base import Frame, GenerativeModel, Part, SampleSettings
from nelbo.nn.autoencoder import Decoder, PyramidOptions
from nelbo.nn.clusters import Clusters
from nelbo.nn.critic import Critic
from nelbo.rng import Draws, Stream, normal, uniform
from nelbo.theory.adversarial import js_lower_bound, total_variation_lower_bound
from nelbo.theory.likelihoods import full, to_unit

PENALTY_EVERY = 4
"""The gradient penalty is taken at one step in so many, and counts as many times (Karras et al. 2020, lazy R1)."""
SURE = 0.99
"""A discriminator that is right about this share of unseen images and samples has won, and teaches nothing."""


class Game(NamedTuple):
    """A loss for each player, from D's outputs ℓ, before any sigmoid.

    Attributes:
        critic: (ℓ(x), ℓ(G(z))) → what D lowers, shape (B,).
        generator: ℓ(G(z)) → what G lowers, shape (B,).
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def cross_entropy(real: Tensor, drawn: Tensor) -> Tensor:
    """−ln D(x) − ln(1 − D(G(z))), whose mean is −V(D, G)  [GAN (1)]."""
    return F.softplus(-real) + F.softplus(drawn)


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """max(0, 1 − ℓ(x)) + max(0, 1 + ℓ(G(z)))  [Lim & Ye 2017]."""
    return F.relu(1 - real) + F.relu(1 + drawn)


GAMES: dict[str, Game] = {
    # ln(1 − D(G(z))): the game as it is written.
    "minimax": Game(cross_entropy, lambda drawn: -F.softplus(drawn)),
    # −ln D(G(z)): the same fixed point, with a gradient where D is sure (Goodfellow et al. 2014, section 3).
    "non-saturating": Game(cross_entropy, lambda drawn: F.softplus(-drawn)),
    "hinge": Game(hinge, torch.neg),
    # ℓ(G(z)) − ℓ(x), over functions of slope 1 (Arjovsky et al. 2017; Gulrajani et al. 2017).
    "wgan-gp": Game(lambda real, drawn: drawn - real, torch.neg),
}


class GANOptions(PyramidOptions):
    """The settings of a GAN."""

    loss: Literal["non-saturating", "minimax", "hinge", "wgan-gp"] = "non-saturating"
    "What the two networks lower; the first two are the game with cross-entropy."
    latent: Annotated[int, Field(ge=1, le=65_536)] = 64
    "The size of z."
    clusters: Annotated[int, Field(ge=0, le=65_536)] = 1000
    "Clusters of training images that both networks are told of, at most; 0 for the game as it was first written."
    r1: Annotated[float, Field(ge=0)] = 0.1
    "γ of the penalty ½ γ ‖∇ℓ(x)‖² on real images, per image; wgan-gp has a penalty of its own instead."
    gp: Annotated[float, Field(ge=0)] = 10.0
    "λ of wgan-gp's penalty λ (‖∇ℓ‖ − 1)² between real images and samples."
    spectral: bool = False
    "Spectral normalisation of the discriminator."
    critic_lr: Annotated[float, Field(gt=0)] = 1.0
    "The discriminator's learning rate, as a multiple of --lr."


class GAN(GenerativeModel):
    """A generator, a discriminator, and the game between them.

    Args:
        options: the settings, resolved for ``shape``.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
    """

    family = "gan"
    why_no_bound = "a GAN can draw images and cannot say how likely one is"
    earliest_warning = TOO_EARLY

    def __init__(self, options: GANOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        clusters, inputs = options.clusters, options.latent + options.clusters
        self.clusters = Clusters(shape, clusters) if clusters else None
        self.generator = Decoder(shape, inputs, shape[0], options.widths, options.counts())
        self.critic = Critic(shape, options.widths, options.counts()[0] > 0, options.spectral, clusters)

    @property
    def parts(self) -> list[Part]:
        """Two players, each with moments and clipping of its own; no momentum, as the target moves, and so no Muon."""
        players = ((self.generator, 1.0), (self.critic, self.options.critic_lr))
        return [Part(list(network.parameters()), times, (0.0, 0.99), None) for network, times in players]

    def draw(self, z: Tensor, cluster: Tensor | None = None) -> Tensor:
        """G(z, c) on the scale where levels fill [−1, 1], shape (B, C, H, W)."""
        told = [] if cluster is None else [F.one_hot(cluster, self.options.clusters).to(z)]
        return torch.tanh(full(self.generator(torch.cat([z, *told], 1))))

    def cluster(self, x_0: Tensor) -> Tensor | None:
        """c(x) of images on [−1, 1], shape (B,); None in a game without clusters."""
        return None if self.clusters is None else self.clusters(x_0)

    # Training

    def prepare(self, images: Tensor, levels: int, seed: int) -> None:
        """Find the clusters."""
        if self.clusters is not None:
            self.clusters.learn(images, levels, seed)

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """The sum of both players' losses, each with a gradient to its own network alone, shape (B,)."""
        game, x_0 = GAMES[self.options.loss], to_unit(x, self.levels)
        cluster = self.cluster(x_0)
        drawn = self.draw(draws.normal(Stream.TRAIN_NOISE, (self.options.latent,)), cluster)
        with held_fixed(self.critic):
            loss = game.generator(self.critic(drawn, cluster))
        twice = None if cluster is None else cluster.repeat(2)
        real, seen = self.critic(torch.cat([x_0, drawn.detach()]), twice).chunk(2)
        loss = loss + game.critic(real, seen)
        if draws.step % PENALTY_EVERY == 0:
            loss = loss + PENALTY_EVERY * self.penalty(x_0, drawn.detach(), cluster, draws)
        return loss

    def penalty(self, x_0: Tensor, drawn: Tensor, cluster: Tensor | None, draws: Draws) -> Tensor:
        """½ γ ‖∇ℓ(x)‖² (Mescheder et al. 2018 (9)), or λ (‖∇ℓ(x̂)‖ − 1)² (Gulrajani et al. 2017 (3)), shape (B,).

        x̂ lies between an image and a sample, at a uniform place.
        """
        wasserstein = self.options.loss == "wgan-gp"
        strength = self.options.gp if wasserstein else self.options.r1
        if not strength:
            return x_0.new_zeros(len(x_0))
        if wasserstein:
            place = draws.uniform(Stream.TRAIN_PLACE).to(x_0).reshape(-1, 1, 1, 1)
            x_0 = place * x_0 + (1 - place) * drawn
        squared = self.slope(x_0, cluster)
        if wasserstein:
            return strength * (torch.sqrt(squared + 1e-12) - 1).square()
        return 0.5 * strength * squared

    def slope(self, x: Tensor, cluster: Tensor | None) -> Tensor:
        """‖∇_x ℓ(x)‖² of each image, shape (B,), in torch's default type."""
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.critic(x, cluster).sum(), x, create_graph=self.training)
        return gradient.square().flatten(1).sum(1)

    # What D knows

    def measures(self, images: Images, start: int = 0, batch: int = 256) -> dict[str, Tensor]:
        """What D says of unseen images and of as many samples, and the divergence that it proves.

        With cross-entropy: D(x), D(G(z)) and ½ V + ln 2, whose expectation is at most JS(data, G). With hinge: ℓ and
        1 − ½ L_D, at most total variation. With wgan-gp ℓ and its gap, neither a bound nor a probability. D is told the
        cluster that each image and each sample itself falls in, as what it proves has to be a function of x alone.
        """
        images = checked_images(self, images)
        real, drawn = (torch.cat(parts) for parts in zip(*self.answers(images, start, batch), strict=True))
        if self.options.loss == "wgan-gp":
            return {"critic_of_images": real, "critic_of_samples": drawn, "critic_gap": real - drawn}
        if self.options.loss == "hinge":
            bound = total_variation_lower_bound(hinge(real, drawn))
            return {"critic_of_images": real, "critic_of_samples": drawn, "total_variation_at_least": bound}
        bound = js_lower_bound(-cross_entropy(real, drawn))
        return {"D_of_images": real.sigmoid(), "D_of_samples": drawn.sigmoid(), "jensen_shannon_at_least": bound}

    def answers(self, images: Tensor, start: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """ℓ of these images, from index ``start`` on, and of samples of the same index, in float64, batch by batch."""
        for first in range(0, len(images), batch):
            x_0 = to_unit(images[first : first + batch].to(self.device), self.levels)
            drawn = self.unseen(range(start + first, start + first + len(x_0)))
            yield tuple(self.critic(part, self.cluster(part)).double().cpu() for part in (x_0, drawn))

    def unseen(self, indices: Sequence[int]) -> Tensor:
        """Samples to judge D by, other than those that :meth:`frames` draws, shape (len(indices), C, H, W)."""
        z = normal(0, Stream.SCORE_NOISE, 0, indices, (self.options.latent,)).to(self.device)
        return self.draw(z, self.drawn_cluster(0, Stream.SCORE_CLUSTER, indices))

    def drawn_cluster(self, seed: int, stream: Stream, indices: Sequence[int]) -> Tensor | None:
        """A cluster for each index by its share, shape (len(indices),); None in a game without clusters."""
        if self.clusters is None:
            return None
        return self.clusters.drawn(uniform(seed, stream, 0, indices).to(self.device))

    @torch.no_grad()
    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        images = checked_images(self, images)
        if self.clusters is None:
            return []
        x_0 = to_unit(images.to(self.device), self.levels)
        z = normal(0, Stream.SCORE_NOISE, 1, range(ROWS * len(x_0)), (self.options.latent,)).to(self.device)
        drawn = self.draw(z, self.clusters(x_0).repeat(ROWS))
        return [("images, and under each samples from its cluster", torch.cat([x_0, drawn]), len(x_0))]

    @torch.no_grad()
    def diagnostics(self, images: Images) -> dict[str, object]:
        """How much samples differ beside images, and how often D is right about both, on up to a thousand."""
        images = checked_images(self, images)
        images = images[:1000].to(self.device)
        x_0 = to_unit(images, self.levels)
        found = spread(self.unseen(range(len(x_0))), x_0)
        real, seen = (torch.cat(parts) for parts in zip(*self.answers(images, 0, 256), strict=True))
        right = float(torch.cat([real > 0, seen < 0]).double().mean())
        return found if self.options.loss == "wgan-gp" else found | {"discriminator_right": right}

    def ailments(self, found: Mapping[str, object]) -> list[str]:
        """Collapse: samples that hardly differ. Where they do, divergence: a discriminator that is never wrong."""
        collapsed, right = collapse_line(found), found.get("discriminator_right")
        if collapsed is not None:
            return [f"{collapsed}; raise --r1 or lower --lr"]
        if isinstance(right, float) and right > SURE:
            share = f"{100 * right:.0f}% of unseen images and samples"
            return [f"the discriminator has won, it is right about {share}; raise --r1 or lower --critic-lr"]
        return []

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        """G(z, c), or with steps K > 1 the end of a Metropolis–Hastings chain over K of them (Turner et al. 2019).

        Where ℓ = ln p(x|c)/p_G(x|c), as in the game's optimum, a chain that moves from x to a fresh G(z, c) with
        probability min(1, exp(ℓ(G(z, c)) − ℓ(x))) comes to draw from p(x|c) itself; as far as D is right, its end is
        nearer to p. An image keeps its c.
        """
        self.describe_sampling(settings)
        of, shape = settings.steps or 1, (self.options.latent,)
        cluster = self.drawn_cluster(seed, Stream.SAMPLE_CLUSTER, indices)
        for step in range(of):
            z = tempered(normal(seed, Stream.SAMPLE, step, indices, shape), settings).to(self.device)
            drawn = self.draw(z, cluster)
            logit = self.critic(drawn, cluster) if of > 1 else drawn.new_zeros(len(drawn))
            if step == 0:
                x, at = drawn, logit
            else:
                chance = uniform(seed, Stream.SAMPLE_ACCEPT, step, indices).to(self.device)
                moves = chance < (logit - at).double().exp()
                x, at = torch.where(moves.reshape(-1, 1, 1, 1), drawn, x), torch.where(moves, logit, at)
            yield Frame(step + 1, of, x, x)

    def describe_sampling(self, settings: SampleSettings) -> str:
        in_one_step(self.family, settings._replace(steps=None))
        if (settings.steps or 1) == 1:
            told = "" if self.clusters is None else ", c from the clusters of training images by their shares"
            return f"G(z{', c' if told else ''}), z from N(0, I){said(settings)}{told}"
        if settings.temperature is not None:
            why = "has no place in a chain (--steps), which moves by what D says of G(z) as they are"
            raise InputError("--temperature", f"{why}; leave one out")
        if GAMES[self.options.loss].critic is not cross_entropy:
            why = f"more than 1 needs a discriminator that says ln p(x)/p_G(x), and {self.options.loss} trains none"
            raise InputError("--steps", f"{why}; leave it out")
        return f"the last of {settings.steps} G(z) in a Metropolis–Hastings chain that D judges"

    def facts(self) -> Mapping[str, object]:
        sizes = (self.generator, self.critic)
        generator, critic = (sum(p.numel() for p in network.parameters()) for network in sizes)
        return {"generator_parameters": generator, "discriminator_parameters": critic}


class held_fixed:  # noqa: N801
    """While inside, a network's weights get no gradient; what passes through it does.

    Args:
        network: the network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = [p for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for p in self.weights:
            p.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for p in self.weights:
            p.requires_grad_(True)


OPTIONS, MODEL = GANOptions, GAN
