"""No class of models/ has more than ten public members."""

import importlib
import inspect
from pathlib import Path

import pytest
from torch import nn

import nelbo.models

MOST = 10
(FOLDER,) = map(Path, nelbo.models.__path__)
MODULES = [importlib.import_module(f"nelbo.models.{p.stem}") for p in sorted(FOLDER.glob("*.py"))]
OUTSIDE = {*dir(nn.Module), *dir(tuple), *dir(dict)}
CLASSES = {
    each: None
    for module in MODULES
    for each in vars(module).values()
    if inspect.isclass(each) and each.__module__ == module.__name__ and not hasattr(each, "model_fields")
}
"""Every class but the settings of a family, whose members are options."""


def public(cls: type) -> list[str]:
    """What one may ask of it: methods, properties and constants, those that are inherited from nelbo's classes too."""
    return [name for name in dir(cls) if not name.startswith("_") and name not in OUTSIDE]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__qualname__)
def test_a_class_has_few_public_members(cls: type) -> None:
    assert len(public(cls)) <= MOST, f"{cls.__qualname__} has {public(cls)}"
