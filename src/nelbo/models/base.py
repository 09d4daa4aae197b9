"""A generative model: a loss to train, samples, and, for families with a likelihood, a bound.

:mod:`nelbo.models.inspector` has pictures and texts about a model, :mod:`nelbo.models.recipe` the rest of its training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from nelbo.models._checks import Images, checked_images, checked_int, checked_labels, checked_seed, require_sampling
from nelbo.models.forms import Forms
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import Recipe
from nelbo.models.sampling import Frame, SampleKeywords, SampleSettings
from nelbo.options import Shape
from nelbo.rng import Draws
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_levels


class GenerativeModel(nn.Module, ABC):
    """A network and its mathematics, for images of one size.

    Args:
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Attributes:
        dims: D = C·H·W, the number of data dimensions.
        classes: the names of the K classes, if the model also has p(x|y) and its loss uses ``draws.labels``; else ().
        gather_batch: rows of this process's images → rows of the whole batch. The trainer sets it if several processes
            share a batch; a loss that depends on the whole batch calls it.
    """

    family: str

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model for the family's settings.

        Args:
            options: the settings, resolved for ``shape``.
            shape: (C, H, W) of the images.
            levels: L, the number of values a pixel can take.
            parts: networks and other parts that replace those of the settings, by argument name.

        Raises:
            InputError: the settings or parts do not fit together.
        """
        return cls(options, shape, levels, **parts)  # type: ignore[call-arg, arg-type]

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = shape
        self.levels = levels
        self.dims = math.prod(shape)
        self.classes: tuple[str, ...] = ()
        self.gather_batch: Callable[[Tensor], Tensor] = same_rows

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def inspector(self) -> Inspector:
        """Pictures, diagnostics and texts of this model."""
        return Inspector(self)

    @property
    def recipe(self) -> Recipe:
        """How this model is trained, beyond its loss."""
        return Recipe(self)

    @abstractmethod
    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """The training loss per example, shape (B,).

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W).
            draws: the random numbers of this batch.
        """

    @abstractmethod
    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        """Sample the images with these indices, and yield each intermediate state; the last state is the image.

        Image i of a seed does not depend on the other indices.

        Args:
            indices: the images' indices.
            seed: the seed.
            settings: the settings of sampling.

        Raises:
            InputError: the family does not use a setting.
        """

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        batch: int = 64,
        settings: SampleSettings | None = None,
        **chosen: Unpack[SampleKeywords],
    ) -> Tensor:
        """Sample n images.

        Args:
            n: the number of images.
            seed: image i of a seed is always the same image.
            start: the index of the first image.
            batch: images per batch; it affects only speed and memory.
            settings: the settings of sampling; None for the family's defaults.
            chosen: fields of :class:`SampleSettings` by name, such as ``steps=20``, which override ``settings``.

        Returns:
            Integer levels, uint8, shape (n, C, H, W).

        Raises:
            InputError: a number is out of its range, or the family does not use a setting.
        """
        settings = SampleSettings(**{**(settings or SampleSettings())._asdict(), **chosen})
        require_sampling(n, seed, start, batch, settings)
        self.inspector.describe_sampling(settings)  # raises for unused settings, even if n is 0
        parts = []
        for first in range(start, start + n, batch):
            *_, last = self.frames(range(first, min(first + batch, start + n)), seed, settings)
            parts.append(to_levels(last.x, self.levels).cpu())
        return torch.cat(parts) if parts else torch.empty(0, *self.shape, dtype=torch.uint8)


def same_rows(rows: Tensor) -> Tensor:
    """The same rows, for one process with the whole batch."""
    return rows


class LikelihoodModel(GenerativeModel):
    """A model with a bound of −ln p(x)."""

    @property
    @abstractmethod
    def forms(self) -> Forms:
        """The forms in which this model's bound can be estimated; the first is the default."""

    @torch.no_grad()
    def bound(
        self,
        x: Images,
        *,
        seed: int = 0,
        timesteps: int | None = None,
        replicates: int = 1,
        form: str | None = None,
        k: int = 8,
        labels: Sequence[str] | None = None,
    ) -> Bound:
        """The negative ELBO of each image, term by term, in nats: −ln p(x) ≤ E[total], or −ln p(x|y) with labels.

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W), B ≥ 1, as a tensor or a NumPy array.
            seed: seed of the Monte Carlo noise; the noise of image i does not depend on B.
            timesteps: the number of t per image and replicate; None for the family's default.
            replicates: the number of independent estimates to average.
            form: a name of :attr:`forms`; None for the first.
            k: samples (for diffusion, trajectories) in one logarithm of the importance-weighted form.
            labels: y of each image, the names of its class among :attr:`classes`, B of them; None for p(x).

        Returns:
            The terms, extras and network evaluations, each image's averaged over the replicates, shape (B,), and the
            terms' pixels, shape (B, C, H, W), where a term is a sum over pixels.

        Raises:
            InputError: x is not such images, a number is out of range, or the model does not have the form or a class.
        """
        x, forms = checked_images(self, x, "x"), self.forms
        y = None if labels is None else checked_labels(self, labels, len(x)).to(self.device)
        estimator = forms.named(form)
        count = forms.count(estimator, timesteps, k)
        checked_seed(seed)
        checked_int("replicates", replicates, 1)
        runs = [
            estimator.estimate(x.to(self.device), Draws(seed, r, range(len(x)), len(x), self.device, y), count)
            for r in range(replicates)
        ]
        return Bound(
            {name: torch.stack([run.terms[name] for run in runs]).mean(0) for name in runs[0].terms},
            {name: torch.stack([run.extras[name] for run in runs]).mean(0) for name in runs[0].extras},
            sum(run.evaluations for run in runs),
            {name: torch.stack([run.pixels[name] for run in runs]).mean(0) for name in runs[0].pixels},
        )
