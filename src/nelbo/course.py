"""Helpers of the course's notebooks: check an answer, turn a parameter, play an animation.

They are in the package because a notebook in Colab has only the installed release. Nothing else in nelbo uses them.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

UNANSWERED = "Write your answer into the cell above, and run this cell again."

CLOSE = 0.003
"""Relative error of an answer that may only have too few digits."""

Control = tuple[float, float, float] | Sequence[str] | float
"""A number with its least and largest value, a choice of words of which the first is the initial one, or one value."""


def check(answer: Any, truth: Any, hint: str, *, rtol: float = 1e-3, atol: float = 1e-9) -> None:
    """Compare an answer with the truth; without an answer, print what to do.

    Args:
        answer: the student's answer: a word, a number, or numbers in a list, an array or a tensor; None or ``...`` is
            no answer, also as one of several.
        truth: the right answer, of the same kind.
        hint: what to think of when the answer is wrong; it does not contain the truth.
        rtol, atol: allowed relative and absolute error of numbers.

    Raises:
        AssertionError: the answer is wrong.
    """
    if is_open(answer):
        print(UNANSWERED)
        return
    given, right = np.asarray(plain(answer)), np.asarray(plain(truth))
    if right.dtype.kind not in "biuf":
        good = bool(given.shape == right.shape and (given == right).all())
    elif given.dtype.kind not in "biuf":
        raise AssertionError(f"The answer is {answer!r}, but it must be numeric.")
    elif given.shape != right.shape:
        wanted = "one number" if right.shape == () else f"numbers of shape {right.shape}"
        raise AssertionError(f"The answer has shape {given.shape}, but it must be {wanted}.")
    else:
        good = bool(np.allclose(given, right, rtol=rtol, atol=atol))
    if not good:
        near = right.dtype.kind in "biuf" and np.allclose(given, right, rtol=CLOSE, atol=atol)
        raise AssertionError(f"Not yet. {hint}" + " It is close: are there enough digits?" * near)
    print("Right.")


def is_open(answer: Any) -> bool:
    """Whether there is no answer yet, or one of several is missing."""
    if isinstance(answer, list | tuple):
        return any(is_open(part) for part in answer)
    return answer is None or answer is ...


def plain(value: Any) -> Any:
    """The value with every tensor as a NumPy array."""
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def turn(draw: Callable[..., None], **controls: Control) -> None:
    """Draw with the initial values; with ipywidgets in a notebook, give each value a slider or a menu.

    Args:
        draw: a function that draws or prints, called with one value for each control.
        controls: name → (value, least, largest), or the words to choose from, of which the first is used at first; or
            one value.
    """
    if not (has_widgets() and in_notebook()):
        draw(**{name: first(control) for name, control in controls.items()})
        return
    from ipywidgets import interact

    interact(draw, **sliders(controls))


def first(control: Control) -> float | str:
    """The initial value of a control."""
    return control if isinstance(control, float | int | str) else control[0]


def has_widgets() -> bool:
    """Whether ipywidgets is installed."""
    return importlib.util.find_spec("ipywidgets") is not None


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code."""
    try:
        shell = get_ipython()  # type: ignore[name-defined]
    except NameError:
        return False
    return hasattr(shell, "kernel")


def sliders(controls: Mapping[str, Control]) -> dict[str, Any]:
    """A slider of ipywidgets for each number, a menu for each choice of words."""
    import ipywidgets

    def widget(control: Control) -> Any:
        if isinstance(control, float | int | str):
            return ipywidgets.fixed(control)
        value, *rest = control
        if isinstance(value, str):
            return ipywidgets.Dropdown(options=list(control))
        low, high = rest
        if all(isinstance(each, int) for each in control):
            return ipywidgets.IntSlider(value, low, high, continuous_update=False)
        step = (float(high) - float(low)) / 100
        return ipywidgets.FloatSlider(value, min=low, max=high, step=step, continuous_update=False)

    return {name: widget(control) for name, control in controls.items()}


class Animation:
    """A GIF that a notebook shows.

    Args:
        gif: its bytes.
    """

    def __init__(self, gif: bytes) -> None:
        self.gif = gif

    def _repr_html_(self) -> str:
        return f'<img alt="animation" src="data:image/gif;base64,{base64.b64encode(self.gif).decode()}">'


def play(frames: Sequence[Image.Image], seconds: float = 4.0, width: int = 480) -> Animation:
    """An animation of these pictures, which pauses at the last one.

    Args:
        frames: pictures of one size.
        seconds: its duration without the pause.
        width: its width in pixels.
    """
    height = round(width * frames[0].height / frames[0].width)
    small = [frame.resize((width, height), Image.Resampling.NEAREST) for frame in frames]
    durations = [max(40, round(1000 * seconds / len(small)))] * (len(small) - 1) + [2000]
    stream = io.BytesIO()
    small[0].save(stream, format="GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
    return Animation(stream.getvalue())
