"""How a model is trained beyond its loss: parameter groups, what is compiled, what is learned before the first step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.options import FamilyOptions

if TYPE_CHECKING:
    from nelbo.models.base import GenerativeModel


class ParamGroup(NamedTuple):
    """Parameters that are trained with settings of their own.

    Attributes:
        parameters: the parameters; their gradients are clipped by one norm.
        lr: their learning rate, as a multiple of the run's.
        betas: AdamW's β₁ and β₂.
        momentum: Muon's μ; with None, AdamW trains the matrices of this group too.
    """

    parameters: list[nn.Parameter]
    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float | None = 0.95


class Recipe:
    """How one model is trained. A family that needs more than this has a subclass.

    Args:
        model: the model.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def options(self) -> FamilyOptions:
        """The settings that make this model again, with :attr:`parts`; where a family says no more, it has none.

        Raises:
            InputError: the family cannot say.
        """
        raise InputError("model", f"a {self.model.family} cannot say by what settings it was made; use nelbo.train")

    @property
    def parts(self) -> dict[str, str]:
        """What was given from Python and no setting can make: the argument's name → the class's or function's."""
        return {}

    @property
    def groups(self) -> list[ParamGroup]:
        """The parameters, in groups with settings of their own."""
        return [ParamGroup(list(self.model.parameters()))]

    @property
    def compilable(self) -> list[nn.Module]:
        """The networks that do most of the work and that torch.compile can take; none by default."""
        return []

    def prepare(self, images: Tensor, levels: int, seed: int) -> None:
        """Learn what the model has to know of the training images before the first step; nothing by default.

        Args:
            images: integer levels, shape (N, C, H, W).
            levels: the number of levels of these images; more than the model's where each batch is binarised.
            seed: the seed of the run.
        """


class Described(Protocol):
    """A model that keeps the settings that make it, and the names of the parts that came from Python."""

    options: Any
    parts: dict[str, str]


Model = TypeVar("Model", bound=Described)


def made_of(
    kind: Callable[..., Model], options: FamilyOptions, defaults: Mapping[str, Callable[[], object]], **given: Any
) -> Model:
    """A model of the parts that were given, and of nelbo's own networks in the place of those that were not.

    Args:
        kind: its class.
        options: the settings that it keeps.
        defaults: what makes nelbo's own network, by the name of the argument.
        given: every other argument, and the networks that came from Python.
    """
    made = {name: make() for name, make in defaults.items() if name not in given}
    model = kind(**given, **made)
    model.options = options
    model.parts = {name: part for name, part in model.parts.items() if name not in made}
    return model


class PartsRecipe(Recipe):
    """The recipe of a model that can be made of parts from Python."""

    model: Described  # type: ignore[assignment]

    @property
    def options(self) -> FamilyOptions:
        return self.model.options

    @property
    def parts(self) -> dict[str, str]:
        return self.model.parts


def full_name(part: object) -> str:
    """The module and name of a function, or of the class of anything else; of a script, its file's name."""
    named = part if hasattr(part, "__qualname__") else type(part)
    module = named.__module__
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return f"{module}.{named.__qualname__}"
