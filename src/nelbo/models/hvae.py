"""Hierarchical VAEs: a Markov chain of latents p(z_T) ∏ p(z_{t−1}|z_t) p(x|z_1), inferred bottom-up or top-down.

:mod:`nelbo.theory.hierarchy` has both bounds. Bottom-up, q(z_t|z_{t−1}) shares nothing with the generative model, and
its upper levels tend to collapse. Top-down (Sønderby et al. 2016), q(z_t|z_{t+1}, x) shares the features of p and is
parameterised by its difference from p(z_t|z_{t+1}) (Vahdat & Kautz 2020), so a level without information costs 0 nats.

With labels y all distributions but p(z_T) also depend on y, and both bounds are those of −ln p(x|y).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self, Unpack

import torch
from pydantic import Field
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.diffusion.known import NOTHING, Known
from nelbo.errors import InputError
from nelbo.models._checks import checked_output
from nelbo.models._hvae_inspector import HVAEInspector
from nelbo.models._labels import checked_classes, drawn_labels, given, given_labels, label_settings, shown_labels
from nelbo.models._latent import (
    KLSettings,
    LatentOptions,
    Likelihood,
    PixelLaw,
    gaussian,
    relative_gaussian,
    require_drawing,
    tempered,
)
from nelbo.models.base import LikelihoodModel
from nelbo.models.forms import Estimator, Forms
from nelbo.models.recipe import PartsRecipe, full_name, made_of
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.nn.autoencoder import PyramidOptions
from nelbo.nn.ladder import BottomUp, Ladder, Levels, TopDown, places_of
from nelbo.options import LABEL_DROPOUT, LabelOptions, Shape
from nelbo.rng import Draws, Stream, normal
from nelbo.theory.bound import Bound
from nelbo.theory.hierarchy import (
    BottomUpPass,
    TopDownPass,
    bottom_up_terms,
    infer_bottom_up,
    infer_top_down,
    top_down_terms,
    total,
)
from nelbo.theory.importance import importance_weighted
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian


class HVAEOptions(LabelOptions, LatentOptions, PyramidOptions):
    """The settings of a hierarchical VAE."""

    depth: Annotated[int, Field(ge=1, le=1000)] = 6
    "T, the number of levels of latents."
    latent: Annotated[int, Field(ge=1, le=4096)] = 8
    "Channels of each z_t, a map with its own resolution."
    inference: Literal["top-down", "bottom-up"] = "top-down"
    "q from the top, with p's features (a ladder), or from x upwards."
    stream: bool = False
    "Whether features also go down: p(z_{t−1}|z_t) becomes p(z_{t−1}|z_t, …, z_T), which is not a Markov chain in z."


class HVAE(LikelihoodModel):
    """A ladder of latents, an inference network, and their bound.

    A network describes a normal distribution by two maps along dimension 1: μ, and ln σ before a tanh limits it to ±5.

    Args:
        encoder: Top-down: encoder.pyramid(x_0) → a representation of images on [−1, 1], of any type, and
            encoder(representation, features, t) → the difference of q(z_t|z_{t+1}, x) from p(z_t|z_{t+1}), shape
            (B, 2 C_t, …), where features are those of z_{t+1}, None at t = T. Bottom-up: encoder(z_{t−1}, t) →
            q(z_t|z_{t−1}), where z_0 is x_0.
        ladder: the generative network. ladder.maps: the shapes (C_t, …) of z_1 … z_T. ladder.below(z_t, t, above) →
            features of z_t, of any type, where above are those of z_{t+1} or None; if it uses them, p is not a Markov
            chain. Bottom-up, above is always None. ladder.law(features of z_{t+1}, t) → p(z_t|z_{t+1}), shape
            (B, 2 C_t, …). ladder.image(features of z_1) → the input of the likelihood, shape (B, outputs, H, W).
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.
        inference: ``top-down`` or ``bottom-up``.
        likelihood: p(x|z_1), as in :class:`~nelbo.models.vae.VAE`.
        beta, free_bits, kl_warmup: settings of the KL in training, see :class:`HVAEOptions`.
        classes: the names of the K classes of the images' labels, which makes the model p(x|y) and p(x). Then
            encoder.pyramid(x_0), or bottom-up encoder(z, t), and ladder.below(z, t, above) are also called with
            label=y, y int64 of shape (B,): 1 … K, or 0 if unknown, and without ``label`` if all are unknown, which must
            have the output of zeros.
        label_dropout: the fraction of training images whose label is hidden.

    Raises:
        InputError: a setting is out of its range, or a Bernoulli likelihood has more than two levels.
    """

    family = "hvae"

    def __init__(
        self,
        encoder: nn.Module,
        ladder: nn.Module,
        shape: Shape,
        levels: int,
        *,
        inference: str = "top-down",
        likelihood: str | Likelihood = "auto",
        classes: Sequence[str] = (),
        label_dropout: float = LABEL_DROPOUT,
        **settings: Unpack[KLSettings],
    ) -> None:
        super().__init__(shape, levels)
        self.classes, self.label_dropout, self.known = checked_classes(classes), label_dropout, NOTHING
        by_name = likelihood if isinstance(likelihood, str) else "auto"
        fields = {"depth": len(ladder.maps), "inference": inference, "decoder": by_name, **settings}  # type: ignore[arg-type]
        self.options = checked(HVAEOptions, {**fields, **label_settings(self.classes, label_dropout)})
        self.downwards = inference == "top-down"
        self.pixels = PixelLaw(likelihood, shape, levels) if isinstance(likelihood, str) else likelihood
        self.ladder: Any = ladder
        self.encoder: Any = encoder
        given: dict[str, object] = {"encoder": encoder, "ladder": ladder}
        given |= {} if isinstance(likelihood, str) else {"likelihood": likelihood}
        self.parts = {name: full_name(part) for name, part in given.items()}

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        if options.stream and options.inference == "bottom-up":
            raise InputError("stream", "needs `inference` top-down: bottom-up bounds need a Markov chain")
        places = places_of(options.depth, len(options.widths))
        standing = Levels(options.widths, options.counts(), places, options.latent, len(options.classes))
        outputs = PixelLaw(options.decoder, shape, levels).outputs
        network = TopDown if options.inference == "top-down" else BottomUp
        defaults = {
            "ladder": lambda: Ladder(shape, outputs, standing, options.stream),
            "encoder": lambda: network(shape[0], standing),
        }
        settings = {name: getattr(options, name) for name in ("inference", "beta", "free_bits", "kl_warmup")}
        given = {"likelihood": options.decoder, **settings, **options.of_labels, **parts}
        return made_of(cls, options, defaults, shape=shape, levels=levels, **given)

    # The distributions

    @property
    def _sizes(self) -> list[int]:
        """The size of each z_t, z_1 first."""
        return [math.prod(size) for size in self.ladder.maps]

    def _start(self, like: Tensor, count: int) -> Gaussian:
        """p(z_T) = N(0, I)."""
        zeros = like.new_zeros(count, *self.ladder.maps[-1])
        return Gaussian(zeros, torch.ones_like(zeros))

    def _checked(self, part: str, output: Tensor, t: int) -> Tensor:
        """A network's output for z_t, after a check of its shape."""
        channels, *rest = self.ladder.maps[t - 1]
        return checked_output(part, output, (len(output), 2 * channels, *rest))

    def _below(self, features: Any, t: int) -> Gaussian:
        """p(z_t|z_{t+1}) from the features of z_{t+1}."""
        return gaussian(self._checked("ladder", self.ladder.law(features, t), t))

    def _above(self, z: Tensor, t: int) -> Gaussian:
        """q(z_t|z_{t−1}, y), bottom-up."""
        return gaussian(self._checked("encoder", self.encoder(z, t, **self.known.for_batch(len(z)).keywords), t))

    def _features(self, z: Tensor, t: int, above: Any) -> Any:
        """The features of z_t and y, where ``above`` are those of z_{t+1}, or None."""
        return self.ladder.below(z, t, above, **self.known.for_batch(len(z)).keywords)

    def _nll(self, x: Tensor, features: Tensor) -> Tensor:
        """−ln p(x|z_1) of each image from the features of z_1, shape (B,)."""
        return total(self._pixel_nll(x, features))

    def _pixel_nll(self, x: Tensor, features: Tensor) -> Tensor:
        """−ln p(x|z_1) of each pixel from the features of z_1, shape (B, C, H, W)."""
        return -self.pixels(self.ladder.image(features)).log_prob(x)

    def _walk_down(self, x: Tensor, noise: Sequence[Tensor]) -> TopDownPass:
        """z_T … z_1 from q(z_t|z_{t+1}, x), and their terms."""
        walk = self._pixels_down(x, noise)
        return walk._replace(reconstruction=total(walk.reconstruction))

    def _pixels_down(self, x: Tensor, noise: Sequence[Tensor]) -> TopDownPass:
        """As :meth:`_walk_down`, with the reconstruction of each pixel, shape (B, C, H, W)."""
        x_0, features = to_unit(x, self.levels), None
        seen = self.encoder.pyramid(x_0, **self.known.for_batch(len(x_0)).keywords)

        def laws(z: Tensor | None, t: int) -> tuple[Gaussian, Gaussian]:
            nonlocal features
            if z is None:
                p = self._start(x_0, len(x))
            else:
                features = self._features(z, t + 1, features)
                p = self._below(features, t)
            return relative_gaussian(p, self._checked("encoder", self.encoder(seen, features, t), t)), p

        return infer_top_down(laws, lambda z: self._pixel_nll(x, self._features(z, 1, features)), noise)

    def _walk_up(self, x: Tensor, noise: Sequence[Tensor]) -> BottomUpPass:
        """z_1 … z_T from q(z_t|z_{t−1}), and their terms."""
        walk = self._pixels_up(x, noise)
        return walk._replace(reconstruction=total(walk.reconstruction))

    def _pixels_up(self, x: Tensor, noise: Sequence[Tensor]) -> BottomUpPass:
        """As :meth:`_walk_up`, with the reconstruction of each pixel, shape (B, C, H, W)."""
        return infer_bottom_up(
            self._above,
            lambda z, t: self._below(self._features(z, t, None), t - 1),
            self._start(noise[0], len(x)),
            lambda z: self._pixel_nll(x, self._features(z, 1, None)),
            to_unit(x, self.levels),
            noise,
        )

    def _cut(self, noise: Tensor) -> list[Tensor]:
        """Noise of shape (B, Σ sizes), split into that of z_1 … z_T."""
        parts = torch.split(noise, self._sizes, dim=1)
        return [part.reshape(-1, *size) for part, size in zip(parts, self.ladder.maps, strict=True)]

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """reconstruction + β · w · Σ_t max(KL_t, free bits), in nats per dimension, with w rising from 0 to 1.

        Free bits compare the batch's mean of each level. Bottom-up, the sum is ln q(z|x) − ln p(z) over all levels,
        without free bits, because no level is a divergence.
        """
        noise = self._cut(draws.normal(Stream.TRAIN_NOISE, (sum(self._sizes),)))
        model = given(self, shown_labels(draws, self.label_dropout))
        if self.downwards:
            walk = model._walk_down(x, noise)
            mark = self.options.free_bits
            kept = self.gather_batch(walk.kl.detach().mT).mean(0)[:, None] >= mark
            reconstruction, costs = walk.reconstruction, torch.where(kept, walk.kl, torch.full_like(walk.kl, mark))
        else:
            up = model._walk_up(x, noise)
            reconstruction, costs = up.reconstruction, up.log_q - up.log_p
        return (reconstruction + self.options.kl_weight(draws.step) * costs.sum(0)) / self.dims

    # Scoring

    @property
    def forms(self) -> Forms:
        estimators = {
            "sampled": Estimator(given_labels(self, HVAE._sampled), counts=None),
            "iw": Estimator(given_labels(self, HVAE._importance_weighted), "k", "iw_bound"),
        }
        analytic = {"analytic": Estimator(given_labels(self, HVAE._analytic), counts=None)} if self.downwards else {}
        return Forms(self.family, analytic | estimators)

    def _analytic(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One sample of all latents, with each level's KL in closed form; top-down only."""
        walk = self._pixels_down(x, self._cut(draws.normal(Stream.SCORE_NOISE, (sum(self._sizes),))))
        return with_pixels(walk.reconstruction, top_down_terms(walk, walk.kl))

    def _sampled(self, x: Tensor, draws: Draws, _: int = 0) -> Bound:
        """One sample of all latents, with densities instead of closed forms."""
        return self._bound_at(x, draws.normal(Stream.SCORE_NOISE, (sum(self._sizes),)))

    def _densities(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The terms of −ln p(x, z)/q(z|x) at the z of this noise."""
        return dict(self._bound_at(x, noise).terms)

    def _bound_at(self, x: Tensor, noise: Tensor) -> Bound:
        """−ln p(x, z)/q(z|x) at the z of this noise."""
        if not self.downwards:
            up = self._pixels_up(x, self._cut(noise))
            return with_pixels(up.reconstruction, bottom_up_terms(up))
        walk = self._pixels_down(x, self._cut(noise))
        return with_pixels(walk.reconstruction, top_down_terms(walk, walk.log_ratio))

    def _importance_weighted(self, x: Tensor, draws: Draws, k: int) -> Bound:
        """−ln (1/k) Σ_j p(x, z_j)/q(z_j|x)  [Burda et al. 2016 (8)]; one term, as the sum is inside the logarithm."""
        noise = draws.normal_iter(Stream.SCORE_NOISE, (sum(self._sizes),))
        costs = [
            torch.stack(list(self._densities(x, eps).values())).double().sum(0)
            for _, eps in zip(range(k), noise, strict=False)
        ]
        return Bound({"importance_weighted": importance_weighted(torch.stack(costs))}, evaluations=k)

    @property
    def inspector(self) -> HVAEInspector:
        return HVAEInspector(self)

    @property
    def recipe(self) -> PartsRecipe:
        return PartsRecipe(self)

    # Sampling

    def _generate(self, noise: Sequence[Tensor], given: Sequence[Tensor] = ()) -> Tensor:
        """The features of z_1 for z_T ~ p(z_T), z_t ~ p(z_t|z_{t+1}), from the noise of z_1 … z_T.

        ``given`` replaces the samples of z_T, z_{T−1}, …
        """
        z, features = self._start(noise[0], len(noise[0])).sample(noise[-1]), torch.empty(0)
        for t in range(self.options.depth, 0, -1):
            at = self.options.depth - t
            if at < len(given):
                z = given[at]
            elif at:
                z = self._below(features, t).sample(noise[t - 1])
            features = self._features(z, t, features if at else None)
        return features

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        require_drawing(self, settings)
        model = given(self, Known(label=drawn_labels(self, indices, settings)))
        noise = tempered(normal(seed, Stream.SAMPLE, 0, indices, (sum(self._sizes),), device=self.device), settings)
        mean = self.pixels(self.ladder.image(model._generate(self._cut(noise)))).expectation()
        yield Frame(1, 1, mean, mean)


def with_pixels(reconstruction: Tensor, terms: dict[str, Tensor]) -> Bound:
    """The bound with these terms, its reconstruction as a sum over pixels, shape (B, C, H, W)."""
    others = {name: each for name, each in terms.items() if name != "reconstruction"}
    return Bound.of_pixels({"reconstruction": reconstruction}, others, 1)


OPTIONS, MODEL = HVAEOptions, HVAE
