"""How a model is trained beyond its loss: parameter groups, compiled networks, preparation before the first step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.nn.labels import LabelledNetwork
from nelbo.options import FamilyOptions

if TYPE_CHECKING:
    from nelbo.models.base import GenerativeModel


class ParamGroup(NamedTuple):
    """Parameters with their own training settings.

    Attributes:
        parameters: the parameters; their gradients are clipped by one norm.
        lr: their learning rate, as a multiple of the run's.
        betas: AdamW's β₁ and β₂.
        momentum: Muon's μ; None to train the matrices of this group by AdamW too.
    """

    parameters: list[nn.Parameter]
    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float | None = 0.95


class Recipe:
    """How one model is trained. A family that needs more has a subclass.

    Args:
        model: the model.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def options(self) -> FamilyOptions:
        """The settings that rebuild this model, together with :attr:`parts`.

        Raises:
            InputError: the family does not record its settings.
        """
        raise InputError("model", f"{self.model.family} does not record its settings; use nelbo.train")

    @property
    def parts(self) -> dict[str, str]:
        """Parts from Python, which settings cannot rebuild: argument name → name of the class or function."""
        return {}

    @property
    def groups(self) -> list[ParamGroup]:
        """The parameters, in groups with their own settings."""
        return [ParamGroup(list(self.model.parameters()))]

    @property
    def compilable(self) -> list[nn.Module]:
        """The networks that torch.compile can compile; none by default."""
        return []

    def prepare(self, images: Tensor, levels: int, seed: int, labels: Tensor | None = None) -> None:
        """Learn from the training images before the first step; by default nothing.

        Args:
            images: integer levels, shape (N, C, H, W).
            levels: the number of levels of these images; more than the model's if each batch is binarised.
            seed: the seed of the run.
            labels: y of each image, 1 … K, 0 if unknown, int64, shape (N,); None without labels.
        """


class Described(Protocol):
    """A model with its settings, and the names of its parts from Python."""

    options: Any
    parts: dict[str, str]

    def modules(self) -> Iterator[nn.Module]:
        """All its networks."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All its parameters."""


Model = TypeVar("Model", bound=Described)


def made_of(
    kind: Callable[..., Model], options: FamilyOptions, defaults: Mapping[str, Callable[[], object]], **given: Any
) -> Model:
    """A model of the given parts, with nelbo's own networks for the missing ones.

    Args:
        kind: the model's class.
        options: the settings that it records.
        defaults: argument name → constructor of nelbo's own network.
        given: all other arguments, and the networks from Python.
    """
    made = {name: make() for name, make in defaults.items() if name not in given}
    model = kind(**given, **made)
    model.options = options
    model.parts = {name: part for name, part in model.parts.items() if name not in made}
    return model


class PartsRecipe(Recipe):
    """The recipe of a model that can have parts from Python."""

    model: Described  # type: ignore[assignment]

    @property
    def groups(self) -> list[ParamGroup]:
        """The parameters; the vectors of nelbo's labels apart, without Muon, because few have a gradient in a step."""
        tables = label_vectors(self.model.modules())
        others = [p for p in self.model.parameters() if all(p is not table for table in tables)]
        return [ParamGroup(others), *[ParamGroup(tables, momentum=None)] * bool(tables)]

    @property
    def options(self) -> FamilyOptions:
        return self.model.options

    @property
    def parts(self) -> dict[str, str]:
        return self.model.parts


def label_vectors(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The vectors of labels of nelbo's networks."""
    return [each.labels for each in modules if isinstance(each, LabelledNetwork) and each.labels is not None]


def full_name(part: object) -> str:
    """The module and name of a function, or of an object's class; in a script, the module is the file's name."""
    named = part if hasattr(part, "__qualname__") else type(part)
    module = named.__module__
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return f"{module}.{named.__qualname__}"
