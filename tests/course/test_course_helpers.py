"""nelbo.course: answers are checked, parameters turned, animations shown."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo import course
from nelbo.course import UNANSWERED, check, play, turn


@pytest.mark.parametrize("answer", [None, ..., (None, 1.0), [1.0, ...], [[None]]])
def test_without_an_answer_it_says_what_to_do(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(answer, (1.0, 2.0), "think")
    assert capsys.readouterr().out.strip() == UNANSWERED


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        (1.0, 1.0),
        (1.0005, torch.tensor(1.0)),
        (3, 3.0),
        ([1, 2], np.array([1.0, 2.0])),
        (torch.tensor([0.5]), [0.5]),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        ((torch.tensor(0.5), 1), [0.5, 1.0]),
        ("a.png", "a.png"),
        (["a", "b"], ["a", "b"]),
        (0.0, 0.0),
    ],
)
def test_a_right_answer_passes(answer: Any, truth: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(answer, truth, "think")
    assert capsys.readouterr().out.strip() == "Right."


@pytest.mark.parametrize(
    ("answer", "truth", "said"),
    [
        (1.01, 1.0, "Not yet. think$"),
        (1.002, 1.0, r"Not yet. think It is close: are there enough digits\?"),
        ((0.5, 1.002), (0.5, 1.0), r"Not yet. think It is close: are there enough digits\?"),
        (float("nan"), 1.0, "Not yet. think"),
        (float("inf"), 1.0, "Not yet. think"),
        ([1.0], 1.0, r"has shape \(1,\), but it must be one number"),
        (1.0, [1.0, 2.0], r"must be numbers of shape \(2,\)"),
        ("one", 1.0, "must be numeric"),
        ("a.png", "b.png", "Not yet. think"),
        (1, "b.png", "Not yet. think"),
    ],
)
def test_a_wrong_answer_fails(answer: Any, truth: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check(answer, truth, "think")


def test_without_widgets_it_draws_once_with_the_initial_values() -> None:
    seen: list[dict[str, object]] = []
    turn(lambda **chosen: seen.append(chosen), a=(1, 0, 5), b=(0.5, 0.0, 1.0), c=["x", "y"])
    turn(lambda **chosen: seen.append(chosen), a=0.9, c="yes")
    assert seen == [{"a": 1, "b": 0.5, "c": "x"}, {"a": 0.9, "c": "yes"}]


def test_with_widgets_each_value_has_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def control(kind: str) -> Any:
        return lambda *values, **named: (kind, values, named)

    fake = SimpleNamespace(
        IntSlider=control("int"),
        FloatSlider=control("float"),
        Dropdown=control("menu"),
        fixed=control("fixed"),
        interact=lambda draw, **controls: made.update(controls),
    )
    monkeypatch.setitem(sys.modules, "ipywidgets", fake)
    monkeypatch.setattr(course, "has_widgets", lambda: True)
    monkeypatch.setattr(course, "in_notebook", lambda: True)
    turn(lambda **_: None, a=(1, 0, 5), b=(0.5, 0.0, 2.0), c=["x", "y"], d="z")
    assert made["a"] == ("int", (1, 0, 5), {"continuous_update": False})
    assert made["b"] == ("float", (0.5,), {"min": 0.0, "max": 2.0, "step": 0.02, "continuous_update": False})
    assert made["c"] == ("menu", (), {"options": ["x", "y"]})
    assert made["d"] == ("fixed", ("z",), {})


def test_an_animation_has_every_picture_and_pauses_at_the_end() -> None:
    frames = [Image.new("L", (16, 8), shade) for shade in (0, 100, 200)]
    shown = play(frames, seconds=1.0, width=32)
    assert shown.gif.startswith(b"GIF8")
    assert shown._repr_html_().startswith('<img alt="animation" src="data:image/gif;base64,')
    with Image.open(io.BytesIO(shown.gif)) as gif:
        assert gif.size == (32, 16)
        assert gif.n_frames == 3
        gif.seek(2)
        assert gif.info["duration"] == 2000
