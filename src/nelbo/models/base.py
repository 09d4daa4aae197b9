"""What every family owes: a loss to train by, images to draw, and, where there is a likelihood, a bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from nelbo.bounds import Bound
from nelbo.errors import InputError, nearest
from nelbo.likelihoods import to_levels
from nelbo.models._checks import Images, checked_images, checked_int, checked_seed, require_sampling
from nelbo.rng import Draws


class SampleSettings(NamedTuple):
    """How to draw. ``None`` leaves the choice to the family.

    Attributes:
        sampler: its name.
        steps: network evaluations per image.
        eta: DDIM's η, from 0 (deterministic) to 1 (ancestral).
        clip: hold x̂_0 to [−1, 1] while sampling.
        temperature: standard deviation of latents that are drawn from a prior, 1 being the prior's own.
    """

    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    clip: bool = True
    temperature: float | None = None


class SampleKeywords(TypedDict, total=False):
    """The fields of :class:`SampleSettings`, as keyword arguments."""

    sampler: str | None
    steps: int | None
    eta: float | None
    clip: bool
    temperature: float | None


class Frame(NamedTuple):
    """One state on the way to an image.

    Attributes:
        done, of: steps taken, and how many there are.
        x: the state itself on the scale where pixels fill [−1, 1], shape (B, C, H, W).
        x_0: the image that it promises, same shape.
    """

    done: int
    of: int
    x: Tensor
    x_0: Tensor


class Form(NamedTuple):
    """One way to write the bound, and to estimate it.

    Attributes:
        estimate: (x, draws, count) → one estimate of each image, as :meth:`LikelihoodModel.estimate`.
        counts: what ``count`` counts: ``timesteps``; ``k``, trajectories in one logarithm; None if it has no say.
        kind: what its total is: ``bound``, ``iw_bound`` or ``estimate``.
        why: where it is an estimate, why it is no bound.
    """

    estimate: Callable[[Tensor, Draws, int], Bound]
    counts: str | None = "timesteps"
    kind: str = "bound"
    why: str | None = None


class Part(NamedTuple):
    """Parameters that are trained with settings of their own.

    Attributes:
        parameters: which; their gradients are clipped together.
        lr: their learning rate, as a multiple of the recipe's.
        betas: AdamW's β₁ and β₂.
        momentum: Muon's μ; with None, AdamW trains the part's matrices too.
    """

    parameters: list[nn.Parameter]
    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float | None = 0.95


class GenerativeModel(nn.Module, ABC):
    """A network and the mathematics around it, for images of one size.

    Args:
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Attributes:
        gather_batch: rows of the images that :meth:`loss` was given → the rows of the whole batch. Where several
            processes share a batch, the trainer sets it; a loss that depends on the whole batch calls it.
    """

    family: str

    def __init__(self, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.shape = shape
        self.levels = levels
        self.gather_batch: Callable[[Tensor], Tensor] = same_rows

    @property
    def dims(self) -> int:
        """D = C·H·W, the number of data dimensions."""
        channels, height, width = self.shape
        return channels * height * width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def parts(self) -> list[Part]:
        """The parameters, in parts that are optimised apart."""
        return [Part(list(self.parameters()))]

    @property
    def compilable(self) -> list[nn.Module]:
        """The networks that do most of the work, and that torch.compile takes; none, unless a family says so."""
        return []

    def prepare(self, images: Tensor, levels: int, seed: int) -> None:
        """Learn what has to be known of the training images before the first step; nothing, unless a family says so.

        Args:
            images: integer levels, shape (N, C, H, W).
            levels: how many levels they have; more than the model's, where each batch is binarised.
            seed: of the run.
        """

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

    @abstractmethod
    def describe_sampling(self, settings: SampleSettings) -> str:
        """One line that says how :meth:`frames` would draw, and what it would change on the way."""

    @property
    def glance(self) -> SampleSettings:
        """Settings for a quick look while training."""
        return SampleSettings()

    @property
    def sample_evaluations(self) -> int:
        """Network evaluations that an image takes to draw, unless told otherwise."""
        return 1

    earliest_warning = 0
    """The step before which it is too early for :meth:`ailments`: an untrained model has them all."""

    why_no_bound = ""
    """Why this family has no bound, if it has none: the end of a sentence."""

    def measures(self, images: Images, start: int = 0) -> dict[str, Tensor]:
        """What a family without a bound measures of each image, integer levels of shape (n, C, H, W): name → (n,).

        Args:
            images: the images.
            start: index of the first; where a sample is drawn beside each image, it is the one with its index.
        """
        return {}

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        """Pictures of how the model works, from a few unseen images: title, images on [−1, 1], columns."""
        return []

    def diagnostics(self, images: Images) -> dict[str, object]:
        """What else unseen images show of the model: name → value."""
        return {}

    def ailments(self, found: Mapping[str, object]) -> list[str]:
        """What has gone wrong, by what :meth:`diagnostics` found: a line each, with the mend."""
        return []

    def facts(self) -> Mapping[str, object]:
        """What ``info`` should say of this model beyond its settings: name → value."""
        return {}

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
        self.describe_sampling(settings)  # refuses what it has no use for, also where n is 0
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

    more_forms = ""
    """How a model of this family comes to have more :attr:`forms`, for a message."""
    why_not_forms: Mapping[str, str] = {}
    """Forms that a model of this family might be expected to have, and why it has not, for a message."""

    @property
    def default_timesteps(self) -> int:
        """How many t an estimate takes per image unless told, where the bound is a sum over t."""
        return 1

    @property
    def all_timesteps(self) -> int | None:
        """How many t there are to take; None if there are none, or no end of them."""
        return None

    @abstractmethod
    def estimate(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """One unbiased estimate of the bound of each image.

        Args:
            x: integer levels 0 … L−1, shape (B, C, H, W).
            draws: the random numbers; ``draws.step`` is the replicate.
            timesteps: how many t to evaluate, from 1 to :attr:`all_timesteps`, stratified, if there are any.
        """

    def in_steps(self, T: int) -> Self:
        """The same model with its bound in T steps.

        Raises:
            InputError: its number of steps is fixed.
        """
        raise InputError("--T", f"only a vdm can be scored in other steps, and this is {self.family}; leave it out")

    @property
    @abstractmethod
    def forms(self) -> Mapping[str, Form]:
        """Every way in which this family's bound can be estimated, by name; the first is the default."""

    def form(self, name: str | None) -> Form:
        """The form of this name; the first if None.

        Raises:
            InputError: the family has none.
        """
        forms = self.forms
        if name is not None and name not in forms:
            why = f" ({self.why_not_forms[name]})" if name in self.why_not_forms else nearest(name, forms)
            known = f"forms: {', '.join(forms)}{self.more_forms}"
            raise InputError("form", f"{name!r} is not a form of the bound of this {self.family}{why} ({known})")
        return forms[name or next(iter(forms))]

    def count(self, form: Form, timesteps: int | None, k: int) -> int:
        """What ``form.estimate`` is to be told: k, the number of t, or nothing (0).

        Raises:
            InputError: it is out of its range.
        """
        if form.counts == "k":
            return checked_int("k", k, 1)
        if form.counts is None:
            return 0
        return (
            self.default_timesteps if timesteps is None else checked_int("timesteps", timesteps, 1, self.all_timesteps)
        )

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
        x, written = checked_images(self, x, "x"), self.form(form)
        count = self.count(written, timesteps, k)
        checked_seed(seed)
        checked_int("replicates", replicates, 1)
        runs = [
            written.estimate(x.to(self.device), Draws(seed, r, range(len(x)), len(x), self.device), count)
            for r in range(replicates)
        ]
        return Bound(
            {name: torch.stack([run.terms[name] for run in runs]).mean(0) for name in runs[0].terms},
            {name: torch.stack([run.beside[name] for run in runs]).mean(0) for name in runs[0].beside},
            sum(run.evaluations for run in runs),
        )
