"""A run whose config.toml or state.json was edited: used, or refused in one line, without a traceback."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from machine_helpers import Answer, call, call_well, forget_settings, listing
from test_families import COMMON, FAMILIES

from nelbo.jobs.run import Run

SMALL = {family: options for family, (options, *_) in FAMILIES.items()}
SMALL["gan"] = (*SMALL["gan"], "--clusters", "3")
COMMANDS = (
    ("info", "RUN"),
    ("sample", "RUN", "-n", "2", "--out", "OUT.png", "--device", "cpu"),
    ("score", "RUN", "--limit", "3", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each family."""
    folder = tmp_path_factory.mktemp("altered")
    for family, options in SMALL.items():
        call_well("train", family, *options, *COMMON, "--steps", "2", "--out", folder / family)
    call_well("distill", folder / "vdm", "--train-steps", "1", "--out", folder / "student", "--device", "cpu")
    return {name: folder / name for name in (*SMALL, "student")}


def altered(value: Any) -> list[Any]:
    """Other values of the same type that a hand might write, and one of another type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1, value * 2, "seven"]
    if isinstance(value, str):
        return ["nonsense"]
    if isinstance(value, list):
        return [value[:-1], [*value, *value[-1:]], [each for one in value for each in altered(one)[:1]]]
    return ["nonsense"]


def fields(values: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field of nested tables, with its value."""
    for name, value in values.items():
        yield (*place, name), value
        if isinstance(value, dict):
            yield from fields(value, (*place, name))


def with_field(values: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The same tables with another value in one place; without the field for None."""
    name, *rest = place
    if rest:
        return values | {name: with_field(values[name], tuple(rest), value)}
    return {key: each for key, each in values.items() if key != name} | ({} if value is None else {name: value})


def require_plain(answer: Answer, what: object) -> None:
    """Done, or refused in one line."""
    assert answer.code in (0, 2), (what, answer)
    assert "Traceback" not in answer.err
    if answer.code == 2:
        assert len(answer.err.strip().splitlines()) == 1, (what, answer.err)


def commands(run: Path, family: str) -> Iterator[tuple[str | Path, ...]]:
    """Those that open a run."""
    for words in COMMANDS:
        Path("OUT.png").unlink(missing_ok=True)
        yield tuple(run if word == "RUN" else word for word in words)
    if family != "student":
        yield "train", family, "--out", run, "--resume", "--steps", "2"


ELSEWHERE = ("versions", "machine", "training", "data")
"""Tables that the model does not depend on."""
EVERY = 1 if os.environ.get("NELBO_THOROUGH") else 4
"""Of the changed fields one in four is tried, of each family others, which share most fields; NELBO_THOROUGH=1: all."""


@pytest.mark.parametrize("family", [*FAMILIES, "student"])
def test_any_setting_of_an_older_run_may_be_changed(trained: dict[str, Path], here: Path, family: str) -> None:
    """Checkpoints of before record no settings: what does not fit is found by the weights, or by the data."""
    run = Path(shutil.copytree(trained[family], here / "run"))
    forget_settings(run)
    whole = tomllib.loads((run / "config.toml").read_text())
    changed = [(place, value) for place, value in fields(whole) if place[0] not in ELSEWHERE]
    for place, value in changed[[*FAMILIES, "student"].index(family) % EVERY :: EVERY]:
        (run / "config.toml").write_text(tomli_w.dumps(with_field(whole, place, altered(value)[0])))
        for words in list(commands(run, family))[1:3]:
            require_plain(call(*words), (words, place))


@pytest.mark.parametrize("family", [*FAMILIES, "student"])
def test_any_setting_of_the_weights_that_is_changed_is_refused(
    trained: dict[str, Path], here: Path, family: str
) -> None:
    """Each of those that the checkpoint records, changed to another value that would be accepted by itself, or not."""
    run = Path(shutil.copytree(trained[family], here / "run"))
    whole = tomllib.loads((run / "config.toml").read_text())
    for place, value in fields(Run(run).state["settings"]):
        if not isinstance(value, dict) and value is not None:
            for other in [each for each in altered(value) if each != value][:2]:
                (run / "config.toml").write_text(tomli_w.dumps(with_field(whole, place, other)))
                answer = call("info", run)
                assert (answer.code, answer.out) == (2, ""), (place, other)
                assert place[-1].replace("_", "-") in answer.err.replace("_", "-"), (place, other, answer.err)
                require_plain(answer, (place, other))


def test_any_field_of_the_state_may_be_changed(trained: dict[str, Path], here: Path) -> None:
    """What info reads is resumed from, too."""
    family = "vdm"
    run = Path(shutil.copytree(trained[family], here / "run"))
    path = Run(run).checkpoint / "state.json"
    whole = json.loads(path.read_text())
    for number, (place, value) in enumerate(fields(whole)):
        if place[:2] in (("settings", "model"), ("settings", "images")) and value is not whole["settings"][place[1]]:
            continue  # compared with config.toml, as above
        for other in (altered(value)[0], None, -1, float("nan"))[number % EVERY :: EVERY]:
            path.write_text(json.dumps(with_field(whole, place, other)))
            answer = call("info", run)
            require_plain(answer, (place, other))
            if answer.code == 0:
                require_plain(call("train", family, "--out", run, "--resume", "--steps", "2"), (place, other))


def change(run: Path, old: str, new: str) -> None:
    """Change one line of config.toml."""
    text = (run / "config.toml").read_text()
    assert text.count(f"\n{old}\n") == 1
    (run / "config.toml").write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))


@pytest.mark.parametrize(
    ("family", "old", "new", "said"),
    [
        ("vdm", "levels = 17", "levels = 16", "[images] levels: is 16, but step-00000002 was trained with 17"),
        ("vdm", "gamma_max = 8.0", "gamma_max = 2.0", "[model] gamma_max: is 2.0, but step-00000002 was trained with"),
        ("ddpm", 'schedule = "sigmoid"', 'schedule = "linear"', "[model] schedule: is 'linear', but step-00000002"),
        ("student", "steps = 4", "steps = 2", "[distillation] steps: is 2, but step-00000001 was trained with 4"),
    ],
)
def test_what_the_weights_were_not_trained_with_is_named(
    trained: dict[str, Path], here: Path, family: str, old: str, new: str, said: str
) -> None:
    """By every command that opens the run, with both values; nothing is written."""
    run = Path(shutil.copytree(trained[family], here / "run"))
    change(run, old, new)
    before = listing(run)
    more = [("compare", run), ("distill", run, "--train-steps", "1", "--out", here / "new")]
    more += [("train", family, "--init", run, "--steps", "1", "--out", here / "new")] if family != "student" else []
    for words in [*commands(run, family), *more]:
        answer = call(*words)
        assert (answer.code, answer.out) == (2, ""), words
        assert f"{run / 'config.toml'}: {said}" in answer.err, words
        assert len(answer.err.strip().splitlines()) == 1
    assert listing(run) == before
    assert not (here / "new").exists()


def test_an_older_run_whose_levels_are_not_those_of_its_data_is_refused(trained: dict[str, Path], here: Path) -> None:
    run = Path(shutil.copytree(trained["vdm"], here / "run"))
    forget_settings(run)
    change(run, "levels = 17", "levels = 16")
    answer = call("score", run, "--limit", "3")
    assert (answer.code, answer.out) == (2, "")
    assert "[images] levels: is 16, but the data with that hash have 17" in answer.err


def test_how_long_to_train_may_change(trained: dict[str, Path], here: Path) -> None:
    """What the weights do not depend on is no part of the record: resumed for longer, and with a younger setting."""
    run = Path(shutil.copytree(trained["vdm"], here / "run"))
    path = Run(run).checkpoint / "state.json"
    state = json.loads(path.read_text())
    del state["settings"]["model"]["gamma_max"]  # as if this setting were younger than the run
    state["settings"]["model"]["long_gone"] = 3
    path.write_text(json.dumps(state))
    call_well("train", "vdm", "--out", run, "--resume", "--steps", "3")
    assert Run(run).step == 3
    assert Run(run).state["settings"]["model"]["gamma_max"] == Run(run).config.model.model_dump()["gamma_max"]
