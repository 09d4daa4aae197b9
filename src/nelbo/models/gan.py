"""Generative adversarial networks (Goodfellow et al. 2014): a generator G and a discriminator D in a minimax game.

    min_G max_D V(D, G) = E_x[ln D(x)] + E_z[ln(1 − D(G(z)))]                                   GAN (1)

There is no p(x). D's value on unseen images is a lower bound of a divergence: :mod:`nelbo.theory.adversarial`. Both
networks take a step at the same time, each on its own loss. D can also improve the samples: :meth:`GAN.frames`.

G is continuous, so it interpolates between kinds of images. Therefore both players receive a cluster c of the training
images (Liu et al. 2020, there in D's features; Casanova et al. 2021): c is drawn by its frequency, G draws G(z, c), D
judges x with c(x), and the game is that of p(x, c). No labels are needed.

With labels y both players also receive y, beside c, and the game is that of p(x, c, y). A sample of y has c from
P(c|y). A label that is hidden in training is 0, so that the same networks play the game of p(x, c).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.check import checked
from nelbo.diffusion.known import NOTHING, Known
from nelbo.models._checks import checked_output
from nelbo.models._games import GAMES, require_game
from nelbo.models._gan_inspector import GANInspector
from nelbo.models._labels import checked_classes, drawn_labels, given, label_settings, shown_labels
from nelbo.models._latent import tempered
from nelbo.models.base import GenerativeModel
from nelbo.models.recipe import ParamGroup, PartsRecipe, full_name, made_of
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import Decoder, PyramidOptions
from nelbo.nn.clusters import Clusters
from nelbo.nn.critic import Critic
from nelbo.options import LABEL_DROPOUT, LabelOptions, Shape
from nelbo.rng import Draws, Stream, normal, uniform
from nelbo.theory.likelihoods import to_unit

PENALTY_EVERY = 4
"""Steps between gradient penalties, and the factor of each penalty (Karras et al. 2020, lazy R1)."""


class GANOptions(LabelOptions, PyramidOptions):
    """The settings of a GAN."""

    loss: Literal["non-saturating", "minimax", "hinge", "wgan-gp"] = "non-saturating"
    "The loss of both networks; the first two are the game with cross-entropy."
    latent: Annotated[int, Field(ge=1, le=65_536)] = 64
    "The size of z."
    clusters: Annotated[int, Field(ge=0, le=65_536)] = 1000
    "Largest number of clusters of training images that both networks receive; 0 for the original game."
    r1: Annotated[float, Field(ge=0)] = 0.1
    "γ of the penalty ½ γ ‖∇ℓ(x)‖² on real images, per image; wgan-gp has its own penalty instead."
    gp: Annotated[float, Field(ge=0)] = 10.0
    "λ of wgan-gp's penalty λ (‖∇ℓ‖ − 1)² between real images and samples."
    spectral: bool = False
    "Whether the discriminator has spectral normalisation."
    critic_lr: Annotated[float, Field(gt=0)] = 1.0
    "The discriminator's learning rate, as a multiple of `lr`."


class Strengths(TypedDict, total=False):
    """Strengths in :class:`GANOptions`, as keywords."""

    r1: float
    gp: float
    critic_lr: float


class GAN(GenerativeModel):
    """A generator, a discriminator, and their game.

    Args:
        generator: z, shape (B, latent), with clusters (z, one-hot c), shape (B, latent + clusters) → the image before a
            tanh, shape (B, C, H, W).
        critic: x_0 on [−1, 1], shape (B, C, H, W), with clusters critic(x_0, c), c of shape (B,) → ℓ, the logit of D,
            shape (B,).
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        latent: the size of z.
        loss: the game, ``non-saturating``, ``minimax``, ``hinge`` or ``wgan-gp``.
        clusters: the largest number of clusters that both networks receive; 0 for none.
        classes: the names of the K classes of the images' labels, which both networks then receive as label=y, int64 of
            shape (B,): 1 … K, or 0 if unknown, and without ``label`` if all are unknown, which must have the output of
            zeros.
        label_dropout: the fraction of training images whose label is hidden.
        r1, gp, critic_lr: as in :class:`GANOptions`.

    Raises:
        InputError: a setting is out of its range, or the game is unknown.
    """

    family = "gan"

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        shape: Shape,
        levels: int,
        *,
        latent: int,
        loss: str = "non-saturating",
        clusters: int = 0,
        classes: Sequence[str] = (),
        label_dropout: float = LABEL_DROPOUT,
        **settings: Unpack[Strengths],
    ) -> None:
        super().__init__(shape, levels)
        self.classes, self.label_dropout, self.known = checked_classes(classes), label_dropout, NOTHING
        fields = {"latent": latent, "loss": loss, "clusters": clusters, **settings}
        self.options = checked(GANOptions, {**fields, **label_settings(self.classes, label_dropout)})
        self.clusters = Clusters(shape, clusters, len(self.classes)) if clusters else None
        self.generator, self.critic = generator, critic
        self.parts = {"generator": full_name(generator), "critic": full_name(critic)}

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        widths, counts, classes = options.widths, options.counts(), len(options.classes)
        defaults = {
            "generator": lambda: Decoder(shape, options.latent + options.clusters, shape[0], widths, counts, classes),
            "critic": lambda: Critic(shape, widths, counts[0] > 0, options.spectral, options.clusters, classes),
        }
        given = {name: getattr(options, name) for name in ("latent", "loss", "clusters", "r1", "gp", "critic_lr")}
        return made_of(cls, options, defaults, shape=shape, levels=levels, **given, **options.of_labels, **parts)

    @property
    def inspector(self) -> GANInspector:
        return GANInspector(self)

    @property
    def recipe(self) -> GANRecipe:
        return GANRecipe(self)

    def draw(self, z: Tensor, cluster: Tensor | None = None) -> Tensor:
        """G(z, c, y) on the scale where levels fill [−1, 1], shape (B, C, H, W)."""
        one_hot = [] if cluster is None else [F.one_hot(cluster, self.options.clusters).to(z)]
        output = self.generator(torch.cat([z, *one_hot], 1), **self.known.for_batch(len(z)).keywords)
        return torch.tanh(checked_output("generator", output, (len(z), *self.shape)))

    def _judge(self, x_0: Tensor, cluster: Tensor | None) -> Tensor:
        """ℓ(x, c, y) of images on [−1, 1], shape (B,)."""
        clusters = () if cluster is None else (cluster,)
        output = self.critic(x_0, *clusters, **self.known.for_batch(len(x_0)).keywords)
        return checked_output("critic", output, (len(x_0),))

    def cluster(self, x_0: Tensor, label: Tensor | None = None) -> Tensor | None:
        """c(x) or c(x, y) of images on [−1, 1], shape (B,); None without clusters."""
        return None if self.clusters is None else self.clusters(x_0, label)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """The sum of both players' losses, each with a gradient to its own network only, shape (B,)."""
        game, x_0 = GAMES[self.options.loss], to_unit(x, self.levels)
        cluster, known = self.cluster(x_0, draws.labels), shown_labels(draws, self.label_dropout)
        model, both = given(self, known), given(self, known.followed_by(known))
        drawn = model.draw(draws.normal(Stream.TRAIN_NOISE, (self.options.latent,)), cluster)
        with held_fixed(self.critic):
            loss = game.generator(model._judge(drawn, cluster))
        twice = None if cluster is None else cluster.repeat(2)
        real, seen = both._judge(torch.cat([x_0, drawn.detach()]), twice).chunk(2)
        loss = loss + game.critic(real, seen)
        if draws.step % PENALTY_EVERY == 0:
            loss = loss + PENALTY_EVERY * model._penalty(x_0, drawn.detach(), cluster, draws)
        return loss

    def _penalty(self, x_0: Tensor, drawn: Tensor, cluster: Tensor | None, draws: Draws) -> Tensor:
        """½ γ ‖∇ℓ(x)‖² (Mescheder et al. 2018 (9)), or λ (‖∇ℓ(x̂)‖ − 1)² (Gulrajani et al. 2017 (3)), shape (B,).

        x̂ is a uniform point on the line between an image and a sample.
        """
        wasserstein = self.options.loss == "wgan-gp"
        strength = self.options.gp if wasserstein else self.options.r1
        if not strength:
            return x_0.new_zeros(len(x_0))
        if wasserstein:
            place = draws.uniform(Stream.TRAIN_PLACE).to(x_0).reshape(-1, 1, 1, 1)
            x_0 = place * x_0 + (1 - place) * drawn
        squared = self._slope(x_0, cluster)
        if wasserstein:
            return strength * (torch.sqrt(squared + 1e-12) - 1).square()
        return 0.5 * strength * squared

    def _slope(self, x: Tensor, cluster: Tensor | None) -> Tensor:
        """‖∇_x ℓ(x)‖² of each image, shape (B,), in torch's default dtype."""
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._judge(x, cluster).sum(), x, create_graph=self.training)
        return gradient.square().flatten(1).sum(1)

    def _drawn_cluster(self, seed: int, stream: Stream, indices: Sequence[int]) -> Tensor | None:
        """A cluster for each index, drawn by its frequency, or that in its class, shape (B,); None without clusters."""
        if self.clusters is None:
            return None
        return self.clusters.drawn(uniform(seed, stream, 0, indices, device=self.device), self.known.label)

    # Sampling

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        """G(z, c), or with K > 1 steps the end of a Metropolis–Hastings chain over K samples (Turner et al. 2019).

        The chain moves from x to a new G(z, c) with probability min(1, exp(ℓ(G(z, c)) − ℓ(x))). If ℓ = ln
        p(x|c)/p_G(x|c), as at the game's optimum, it converges to p(x|c); if D is roughly right, its end is closer to
        p. An image keeps its c, and its y.
        """
        require_game(self, self.options.loss, settings)
        of, shape = settings.steps or 1, (self.options.latent,)
        model = given(self, Known(label=drawn_labels(self, indices, settings)))
        cluster = model._drawn_cluster(seed, Stream.SAMPLE_CLUSTER, indices)
        for step in range(of):
            z = tempered(normal(seed, Stream.SAMPLE, step, indices, shape, device=self.device), settings)
            drawn = model.draw(z, cluster)
            logit = model._judge(drawn, cluster) if of > 1 else drawn.new_zeros(len(drawn))
            if step == 0:
                x, at = drawn, logit
            else:
                chance = uniform(seed, Stream.SAMPLE_ACCEPT, step, indices, device=self.device)
                moves = chance < (logit - at).double().exp()
                x, at = torch.where(moves.reshape(-1, 1, 1, 1), drawn, x), torch.where(moves, logit, at)
            yield Frame(step + 1, of, x, x)


class GANRecipe(PartsRecipe):
    """Two players with their own optimisers, and the clusters that both receive."""

    model: GAN

    @property
    def groups(self) -> list[ParamGroup]:
        """Two players with their own moments and clipping; no momentum, because the target moves, and hence no Muon."""
        model = self.model
        players = ((model.generator, 1.0), (model.critic, model.options.critic_lr))
        return [ParamGroup(list(network.parameters()), times, (0.0, 0.99), None) for network, times in players]

    def prepare(self, images: Tensor, levels: int, seed: int, labels: Tensor | None = None) -> None:
        """Compute the clusters, and with labels the share of each cluster in each class."""
        if self.model.clusters is not None:
            self.model.clusters.learn(images, levels, seed, labels)


class held_fixed:  # noqa: N801
    """A context in which a network's weights get no gradient, but gradients pass through the network.

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
