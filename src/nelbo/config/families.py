"""The families by name: nelbo's own, and those of other packages.

A family is a module with ``OPTIONS`` (its settings, with a ``resolved(shape)``) and ``MODEL`` (built from options,
shape and levels). Another package registers its module as an entry point:

    [project.entry-points."nelbo.families"]
    name = "package.module"

A family is imported when it is used.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from nelbo.errors import InputError, nearest

OURS = ("ae", "ddpm", "diffusion", "gan", "hvae", "vae", "vdm")
GROUP = "nelbo.families"
MODELS = Path(__file__).parent.parent / "models"


class Family(NamedTuple):
    """The source of a family.

    Attributes:
        module: its module.
        package: the distribution that registers it; None for nelbo's own.
    """

    module: str
    package: Distribution | None = None


@cache
def families() -> dict[str, Family]:
    """Every family by name, sorted by name. Another package's family cannot replace one of nelbo's."""
    theirs = {entry.name: Family(entry.value, entry.dist) for entry in entry_points(group=GROUP)}
    ours = {name: Family(f"nelbo.models.{name}") for name in OURS}
    return dict(sorted((theirs | ours).items()))


def family_names() -> list[str]:
    """The names of all families."""
    return list(families())


def family_word(name: str, where: str = "FAMILY") -> str:
    """The name, if there is such a family.

    Raises:
        InputError: the family is unknown.
    """
    known = family_names()
    if name not in known:
        raise InputError(where, f"{name!r} is not a family{nearest(name, known)} (families: {', '.join(known)})")
    return name


def family_summary(name: str) -> str:
    """One line about a family: the first line of its module's docstring, or its package's summary."""
    package = families()[family_word(name)].package
    if package is not None:
        return f"{package.metadata['Summary'] or name} (from {package.name} {package.version})"
    file = MODELS / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return (ast.get_docstring(tree) or name).splitlines()[0]


def family_module(name: str) -> ModuleType:
    """The family's module.

    Raises:
        InputError: the family is unknown, or its package cannot be imported.
        TypeError: the module does not define a family.
    """
    place, package = families()[family_word(name)]
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        if package is None:
            raise
        raise InputError(
            "FAMILY", f"{name!r} of {package.name} {package.version} cannot be imported: {error}"
        ) from None
    model = getattr(module, "MODEL", None)
    if model is None or not hasattr(module, "OPTIONS"):
        raise TypeError(f"{place} must define OPTIONS and MODEL")
    if missing := getattr(model, "__abstractmethods__", None):
        raise TypeError(f"{place}: MODEL must define {', '.join(sorted(missing))}")
    if getattr(model, "family", None) != name:
        raise TypeError(f"{place}: MODEL.family must be {name!r}")
    return module


def families_with(field: str) -> list[str]:
    """The families that have this option on the command line."""
    fields = {name: family_module(name).OPTIONS.model_fields.get(field) for name in family_names()}
    return [name for name, found in fields.items() if found is not None and not found.json_schema_extra]
