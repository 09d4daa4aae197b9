"""Bad values from the schema: every setting of every family mistyped and out of range, as option and in a file."""

from __future__ import annotations

import tomllib
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


def declared_by(kind: type[Options], name: str) -> type:
    """The class that declares the field as it is; families share those of a base."""
    return next(base for base in kind.__mro__ if name in getattr(base, "__annotations__", {}))


def every_bad() -> Iterator[Bad]:
    """Every field once, in the first family that has it."""
    seen: set[tuple[type, str]] = set()
    for family in family_names():
        kinds: dict[str, type[Options]] = {"model": family_module(family).OPTIONS}
        if family == "ddpm":
            kinds |= {"data": DataOptions, "training": TrainingOptions}
        for section, kind in kinds.items():
            for name, field in kind.model_fields.items():
                if (owner := (declared_by(kind, name), name)) in seen:
                    continue
                seen.add(owner)
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


CONTRADICTORY = [
    ("train ddpm --minutes 1 --steps 1", "--minutes, --steps"),
    ("train ddpm --resume", "--resume"),
    ("train ddpm --resume --out run --init run", "--init"),
    ("train ddpm --changed-data", "--changed-data"),
    ("train ddpm --label 3", "--label"),
    ("train ddpm --timesteps 1 --predict mean --schedule linear --widths 8 --levels 4", "--levels"),
    ("train ddpm --size 9x9", "--fit"),
    ("train vae --decoder bernoulli", "--decoder"),
    ("train hvae --stream --inference bottom-up", "--stream"),
    ("train vdm --gamma-min 5 --gamma-max 1", "--gamma-m"),
    ("train ddpm --widths 8 8 --blocks 0", "--blocks"),
    ("sample RUN --sampler ancestral --eta 0.5", "--eta"),
    ("sample RUN --temperature 0.5", "--temperature"),
    ("sample RUN --steps 31", "--steps"),
    ("sample RUN --real --out drawn.npz", "--real"),
    ("score RUN --form trajectory --timesteps 3", "--timesteps"),
    ("score RUN --T 3", "--T"),
    ("score RUN --against test", "--against"),
    ("evaluate RUN --form iw", "--form"),
    ("score RUN --sampler ddim", "--sampler"),
    ("distill RUN --minutes 1 --train-steps 1", "--minutes, --train-steps"),
    ("distill RUN --steps 3 --teacher-steps 4", "--teacher-steps"),
    ("info RUN --data digits", "--data"),
]
"""What is fine by itself and not together."""


@pytest.mark.parametrize(("line", "name"), CONTRADICTORY, ids=[line for line, _ in CONTRADICTORY])
def test_contradictory(line: str, name: str, digits_run: Path, here: Path) -> None:
    words = [str(digits_run) if word == "RUN" else word for word in line.split()]
    require_refusal(call(*words), name, here, set())


def test_a_run_without_one_of_its_settings(own_run: Path) -> None:
    """Each field of each table left out: it has a default, or one line says that it is missing."""
    whole = tomllib.loads((own_run / "config.toml").read_text())
    places = [(name,) for name in whole]
    places += [(table, name) for table, values in whole.items() if isinstance(values, dict) for name in values]
    refused = set()
    for place in places:
        values = {name: dict(part) if isinstance(part, dict) else part for name, part in whole.items()}
        table = values[place[0]] if len(place) == 2 else values
        del table[place[-1]]
        (own_run / "config.toml").write_text(tomli_w.dumps(values))
        answer = call("info", own_run)
        assert answer.code in (0, 2), (place, answer)
        if answer.code == 2:
            assert len(answer.err.strip().splitlines()) == 1
            assert str(own_run) in answer.err
            assert place[-1] in answer.err, (place, answer.err)
            refused.add(place[-1])
    assert refused >= {"format", "family", "images", "sha256", "shape", "levels", "versions"}
