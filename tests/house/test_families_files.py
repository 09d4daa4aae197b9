"""Modules that do not define a family are named with what is missing; other packages register their families."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import pytest
from torch import nn

from nelbo.config.families import family_module, family_names
from nelbo.errors import InputError
from nelbo.jobs import run as runs


class Abstract:
    __abstractmethods__ = frozenset({"loss", "frames"})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "OPTIONS and MODEL"),
        ({"MODEL": SimpleNamespace(family="vae")}, "OPTIONS and MODEL"),
        ({"MODEL": Abstract, "OPTIONS": object}, "frames, loss"),
        ({"MODEL": SimpleNamespace(), "OPTIONS": object}, "family must be 'vae'"),
        ({"MODEL": SimpleNamespace(family="veal"), "OPTIONS": object}, "family must be 'vae'"),
    ],
)
def test_what_a_family_lacks_is_said(parts: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("nelbo.models.vae")
    vars(module).update(parts)
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    with pytest.raises(TypeError, match=f"nelbo.models.vae.*{said}"):
        family_module("vae")


@pytest.mark.parametrize("name", family_names())
def test_a_family_is_what_its_file_is_called(name: str) -> None:
    assert name == family_module(name).MODEL.family


def test_a_model_without_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images = SimpleNamespace(shape=(1, 8, 8), levels=17)
    config = SimpleNamespace(family="still", model=None, parts=None, images=images)
    still = SimpleNamespace(from_options=lambda *_: nn.Identity())
    monkeypatch.setattr(runs, "family_module", lambda name: SimpleNamespace(MODEL=still))
    with pytest.raises(InputError, match="still: its MODEL has no parameters"):
        runs.build_model(config)  # type: ignore[arg-type]
