"""The families there are: one module each in ``nelbo/models``, found without importing any of them. A name that
begins with _ is no family.

A family's module has ``OPTIONS`` (its settings, with a ``resolved(shape)``), ``MODEL`` (built from options, shape and
levels), and a docstring whose first line says what it is.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

from nelbo.errors import InputError, nearest

MODELS = Path(__file__).parent.parent / "models"
NOT_FAMILIES = {"base"}


def family_names() -> list[str]:
    """Every family, by name."""
    return sorted(path.stem for path in MODELS.glob("*.py") if path.stem[0] != "_" and path.stem not in NOT_FAMILIES)


def family_word(name: str, where: str = "FAMILY") -> str:
    """The name itself, if there is such a family.

    Raises:
        InputError: there is none.
    """
    known = family_names()
    if name not in known:
        raise InputError(where, f"{name!r} is not a family{nearest(name, known)} (families: {', '.join(known)})")
    return name


def family_summary(name: str) -> str:
    """The first line of the module's docstring."""
    file = MODELS / f"{family_word(name)}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return (ast.get_docstring(tree) or name).splitlines()[0]


def family_module(name: str) -> ModuleType:
    """The family's module.

    Raises:
        InputError: there is no such family.
        TypeError: its file is not what CONTRIBUTING says.
    """
    module = importlib.import_module(f"nelbo.models.{family_word(name)}")
    model = getattr(module, "MODEL", None)
    if model is None or not hasattr(module, "OPTIONS"):
        raise TypeError(f"models/{name}.py must define OPTIONS and MODEL")
    if missing := getattr(model, "__abstractmethods__", None):
        raise TypeError(f"models/{name}.py: MODEL must define {', '.join(sorted(missing))}")
    if getattr(model, "family", None) != name:
        raise TypeError(f"models/{name}.py: MODEL.family must be {name!r}")
    return module
