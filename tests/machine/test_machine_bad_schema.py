"""Bad values made from the schema: every setting of every family mistyped and out of its range, typed and in a file."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest
import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from machine_helpers import call
from pydantic.fields import FieldInfo

from nelbo.config.families import family_module, family_names
from nelbo.options import DataOptions, Options, TrainingOptions


class Bad(NamedTuple):
    """One bad setting.

    Attributes:
        family: whose command is called.
        section: its table in a file.
        field: its name.
        value: as it would stand in a file.
        typed: whether the command line has an option for it, and could be given this.
    """

    family: str
    section: str
    field: str
    value: Any
    typed: bool

    @property
    def option(self) -> str:
        """As it is typed."""
        return "--" + self.field.replace("_", "-")


def parts(annotation: Any, metadata: tuple[Any, ...] = ()) -> tuple[Any, list[Any]]:
    """The type itself and all that bounds it, out of Annotated and unions with None."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        flat = [bound for each in more for bound in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return parts(inner, (*metadata, *flat))
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (each for each in get_args(annotation) if each is not type(None))
        return parts(inner, metadata)
    return annotation, list(metadata)


def outside(kind: Any, bounds: list[Any]) -> Iterator[Any]:
    """Numbers just beyond each bound, and what is no number."""
    for bound in bounds:
        if isinstance(bound, Ge):
            yield bound.ge - 1
        elif isinstance(bound, Gt):
            yield bound.gt
        elif isinstance(bound, Le):
            yield bound.le + 1
        elif isinstance(bound, Lt):
            yield bound.lt
    yield "seven"
    if kind is int:
        yield 1.5
    else:
        yield float("nan")
        yield float("inf")


def bad_values(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[Any]:
    """What a field must refuse."""
    kind, bounds = parts(annotation, metadata)
    if get_origin(kind) is tuple:
        yield from ([value] for value in bad_values(get_args(kind)[0], ()))
    elif kind is bool:
        yield "perhaps"
    elif kind in (int, float):
        yield from outside(kind, bounds)
    elif get_origin(kind) is Literal or (kind is str and any(getattr(bound, "pattern", None) for bound in bounds)):
        yield "nonsense"
    elif isinstance(kind, type) and issubclass(kind, Options):
        yield {"nonsense": 1}


def every_bad() -> Iterator[Bad]:
    """Those of each family's model, and once those that all families share."""
    for family in family_names():
        kinds: dict[str, type[Options]] = {"model": family_module(family).OPTIONS}
        if family == "ddpm":
            kinds |= {"data": DataOptions, "training": TrainingOptions}
        for section, kind in kinds.items():
            for name, field in kind.model_fields.items():
                flag = parts(field.annotation)[0] is bool
                for value in bad_values(field.annotation, tuple(field.metadata)):
                    yield Bad(family, section, name, value, not flag and not field.json_schema_extra)


ALL = list(every_bad())
IDS = [f"{bad.family}-{bad.field}-{bad.value}" for bad in ALL]


def require_refusal(answer: Any, name: str, here: Path, kept: set[str]) -> None:
    """Exit code 2, one line that names the field, nothing on stdout, nothing written."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1
    assert name in answer.err
    assert "Traceback" not in answer.err
    assert {path.name for path in here.iterdir()} == kept


def test_there_are_enough_of_them() -> None:
    assert len(ALL) + sum(bad.typed for bad in ALL) > 200
    assert {bad.section for bad in ALL} == {"data", "model", "training"}


@pytest.mark.parametrize(
    "bad", [bad for bad in ALL if bad.typed], ids=[i for i, b in zip(IDS, ALL, strict=True) if b.typed]
)
def test_typed(bad: Bad, here: Path) -> None:
    words = [str(value) for value in bad.value] if isinstance(bad.value, list) else [str(bad.value)]
    require_refusal(call("train", bad.family, f"{bad.option}={words[0]}"), bad.option, here, set())


@pytest.mark.parametrize("bad", ALL, ids=IDS)
def test_in_a_file(bad: Bad, here: Path) -> None:
    (here / "bad.toml").write_text(tomli_w.dumps({bad.section: {bad.field: bad.value}}))
    answer = call("train", bad.family, "--config", "bad.toml")
    require_refusal(answer, f"bad.toml: [{bad.section}] {bad.field}", here, {"bad.toml"})
