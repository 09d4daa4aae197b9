"""The forms in which a family's bound can be estimated, and how much work each takes."""

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
    """One form of the bound, and how it is estimated.

    Attributes:
        estimate: (x, draws, count) → one estimate for each image of x, integer levels, shape (B, C, H, W);
            ``draws.step`` is the replicate.
        counts: what ``count`` counts: ``timesteps``, which are stratified; ``k``, the samples in one logarithm; None
            where it is not used.
        kind: what the total is: ``bound``, ``iw_bound`` or ``estimate``.
        why: of an estimate, why it is no bound.
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
        default_timesteps: the number of t per image and replicate where none is given.
        all_timesteps: the number of timesteps T, or None in continuous time and where the bound is no sum over t.
        more: how a model of this family comes to have more forms; the end of a message, or "".
        absent: forms that the family has and this model has not → why.
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
        """The form of this name; the first if None.

        Raises:
            InputError: the model has no such form.
        """
        if name is not None and name not in self:
            why = f" ({self.absent[name]})" if name in self.absent else nearest(name, self)
            known = f"forms: {', '.join(self)}{self.more}"
            raise InputError("form", f"{name!r} is not a form of the bound of this {self.family}{why} ({known})")
        return self[name or next(iter(self))]

    def count(self, estimator: Estimator, timesteps: int | None, k: int) -> int:
        """The ``count`` of ``estimator.estimate``: k, the number of t, or 0 where it is not used.

        Args:
            estimator: one of these forms.
            timesteps: the number of t per image; the default if None.
            k: samples in one logarithm.

        Raises:
            InputError: the number that counts is out of its range.
        """
        if estimator.counts == "k":
            return checked_int("k", k, 1)
        if estimator.counts is None:
            return 0
        if timesteps is None:
            return self.default_timesteps
        return checked_int("timesteps", timesteps, 1, self.all_timesteps)
