"""The forms of a family's bound, and the work that each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from nelbo.errors import InputError, nearest
from nelbo.models._checks import checked_int
from nelbo.rng import Draws
from nelbo.theory.bound import Bound


class Estimator(NamedTuple):
    """One form of the bound and its estimator.

    Attributes:
        estimate: (x, draws, count) → one estimate for each image of x, integer levels, shape (B, C, H, W);
            ``draws.step`` is the replicate.
        counts: the meaning of ``count``: ``timesteps``, stratified; ``k``, the samples in one logarithm; None if
            unused.
        kind: the kind of the total: ``bound``, ``iw_bound`` or ``estimate``.
        why: for an estimate, the reason that it is not a bound.
    """

    estimate: Callable[[Tensor, Draws, int], Bound]
    counts: str | None = "timesteps"
    kind: str = "bound"
    why: str | None = None


@dataclass(frozen=True)
class Forms(Mapping[str, Estimator]):
    """The forms of one model's bound by name; the first is the default.

    Args:
        family: the model's family, for messages.
        estimators: name → estimator.
        default_timesteps: the default number of t per image and replicate.
        all_timesteps: the number of timesteps T, or None in continuous time and for bounds that are not sums over t.
        more: how a model of this family can have more forms, as the end of a message, or "".
        absent: forms of the family that this model does not have → the reason.
    """

    family: str
    estimators: Mapping[str, Estimator]
    default_timesteps: int = 1
    all_timesteps: int | None = None
    more: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Estimator:
        return self.estimators[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimators)

    def __len__(self) -> int:
        return len(self.estimators)

    def named(self, name: str | None) -> Estimator:
        """The form with this name, or the first if None.

        Raises:
            InputError: the model does not have this form.
        """
        if name is not None and name not in self:
            why = f" ({self.absent[name]})" if name in self.absent else nearest(name, self)
            known = f"forms: {', '.join(self)}{self.more}"
            raise InputError("form", f"{name!r} is not a form of the bound of this {self.family}{why} ({known})")
        return self[name or next(iter(self))]

    def count(self, estimator: Estimator, timesteps: int | None, k: int) -> int:
        """The ``count`` for ``estimator.estimate``: k, the number of t, or 0 if unused.

        Args:
            estimator: one of these forms.
            timesteps: the number of t per image; None for the default.
            k: samples in one logarithm.

        Raises:
            InputError: the number is out of its range.
        """
        if estimator.counts == "k":
            return checked_int("k", k, 1)
        if estimator.counts is None:
            return 0
        if timesteps is None:
            return self.default_timesteps
        return checked_int("timesteps", timesteps, 1, self.all_timesteps)
