"""A generative model: a loss to train by, images to draw, and, where there is a likelihood, a bound.

What else there is to a model has places of its own: :mod:`nelbo.models.inspector` for what can be shown and said of it,
:mod:`nelbo.models.recipe` for how it is trained beyond its loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from nelbo.models._checks import Images, checked_images, checked_int, checked_seed, require_sampling
from nelbo.models.forms import Forms
from nelbo.models.inspector import Inspector
from nelbo.models.recipe import Recipe
from nelbo.models.sampling import Frame, SampleKeywords, SampleSettings
from nelbo.options import Shape
from nelbo.rng import Draws
from nelbo.theory.bound import Bound
from nelbo.theory.likelihoods import to_levels


class GenerativeModel(nn.Module, ABC):
    """A network and the mathematics around it, for images of one size.

    Args:
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Attributes:
        dims: D = C·H·W, the number of data dimensions.
        gather_batch: rows of the images that :meth:`loss` was given → the rows of the whole batch. Where several
            processes share a batch, the trainer sets it; a loss that depends on the whole batch calls it.
    """

    family: str

    @classmethod
    def from_options(cls, options: Any, shape: Shape, levels: int, **parts: Any) -> Self:
        """The model that the family's settings describe.

        Args:
            options: the settings, resolved for ``shape``.
            shape: (C, H, W) of the images.
            levels: L, the number of values a pixel can take.
            parts: networks and others in the place of those that the settings describe, by the name of the argument.

        Raises:
            InputError: settings or parts that do not go together.
        """
        return cls(options, shape, levels, **parts)  # type: ignore[call-arg, arg-type]

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = shape
        self.levels = levels
        self.dims = math.prod(shape)
        self.gather_batch: Callable[[Tensor], Tensor] = same_rows

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def inspector(self) -> Inspector:
        """What can be shown and said of this model."""
        return Inspector(self)

    @property
    def recipe(self) -> Recipe:
        """How this model is trained beyond its loss."""
        return Recipe(self)

    @abstractmethod
    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """What training lowers, per example, shape (B,).

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W).
            draws: the random numbers of this batch.
        """

    @abstractmethod
    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        """Draw the images with these indices, yielding each state on the way; the last is the image.

        Image i of a seed is the same whichever others are drawn beside it.

        Raises:
            InputError: a setting that this family has no use for.
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
        """Draw n images.

        Args:
            n: how many.
            seed: image i of a seed is always the same image.
            start: index of the first.
            batch: how many at a time; changes nothing but speed and memory.
            settings: how to draw; the family's defaults if None.
            chosen: any field of :class:`SampleSettings` by name, ``steps=20``, over what ``settings`` says.

        Returns:
            Integer levels, uint8, shape (n, C, H, W).

        Raises:
            InputError: a number out of its range, or a setting that this family has no use for.
        """
        settings = SampleSettings(**{**(settings or SampleSettings())._asdict(), **chosen})
        require_sampling(n, seed, start, batch, settings)
        self.inspector.describe_sampling(settings)  # refuses what it has no use for, also where n is 0
        parts = []
        for first in range(start, start + n, batch):
            *_, last = self.frames(range(first, min(first + batch, start + n)), seed, settings)
            parts.append(to_levels(last.x, self.levels).cpu())
        return torch.cat(parts) if parts else torch.empty(0, *self.shape, dtype=torch.uint8)


def same_rows(rows: Tensor) -> Tensor:
    """The rows themselves: one process has the whole batch."""
    return rows


class LikelihoodModel(GenerativeModel):
    """A model that bounds −ln p(x)."""

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
    ) -> Bound:
        """The negative ELBO of each image, term by term, in nats: −ln p(x) ≤ E[total].

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W), B ≥ 1, in a tensor or a NumPy array.
            seed: of the Monte-Carlo noise; image i of the batch has the same noise whatever B.
            timesteps: how many t to evaluate per image and replicate; the family's default if None.
            replicates: independent estimates to average.
            form: how the bound is written, one of :attr:`forms`; the first if None.
            k: samples (of a diffusion: trajectories) in one logarithm of the importance-weighted form.

        Raises:
            InputError: x is no such images, or a number or a form that the model does not have.
        """
        x, forms = checked_images(self, x, "x"), self.forms
        estimator = forms.named(form)
        count = forms.count(estimator, timesteps, k)
        checked_seed(seed)
        checked_int("replicates", replicates, 1)
        runs = [
            estimator.estimate(x.to(self.device), Draws(seed, r, range(len(x)), len(x), self.device), count)
            for r in range(replicates)
        ]
        return Bound(
            {name: torch.stack([run.terms[name] for run in runs]).mean(0) for name in runs[0].terms},
            {name: torch.stack([run.extras[name] for run in runs]).mean(0) for name in runs[0].extras},
            sum(run.evaluations for run in runs),
        )
