"""Errors and durations in plain words: a field such as ``skip_bad`` becomes the label of its control."""

from __future__ import annotations

import re

from nelbo.errors import InputError

LABELS = {
    "data": "Data",
    "size": "Size",
    "fit": "Fit",
    "skip_bad": "Skip unreadable files",
    "n": "Images",
    "label": "Label",
    "labels": "Learn labels",
    "guidance": "Guidance",
    "steps": "Steps",
    "sampler": "Sampler",
    "temperature": "Temperature",
    "strength": "Strength",
    "images": "Image",
    "false_alarms": "False alarms",
    "name": "Name",
    "run": "Run",
    "RUN": "Run",
    "minutes": "Minutes",
    "resume": "Train this run on",
}
"""Field → the label of its control."""

FIELDS = {
    word: word.capitalize() for word in ("file", "hole", "image", "number", "path", "seed", "save", "levels", "split")
}
"""Other fields at the start of a sentence; all others are names of runs and files, which stay as they are."""


def labelled(text: str) -> str:
    """The text with fields in backticks as the labels of their controls.

    >>> labelled("add `skip_bad`")
    'add “Skip unreadable files”'
    """
    return re.sub(r"`([A-Za-z]\w*)`", lambda found: f"“{LABELS.get(found[1], found[1])}”", text)


def of_terminal(line: str) -> str:
    """A line for the terminal as one for the page: options as the labels of their controls.

    >>> of_terminal("nelbo: --labels: needs the label of each image")
    '“Learn labels”: needs the label of each image'
    """
    line = line.removeprefix("nelbo: ")
    return re.sub(r"--([a-z][a-z-]*)", lambda found: f"“{LABELS.get(found[1].replace('-', '_'), found[0])}”", line)


def plain(error: InputError) -> str:
    """An error in one line, with the label of its control, or its file, first."""
    where = ", ".join(LABELS.get(word, FIELDS.get(word, word)) for word in error.where.split(", "))
    return f"{where}: {labelled(error.problem)}"


def whole(value: float | None, field: str, least: int = 0) -> int:
    """A number that a visitor has typed; none is the least.

    Raises:
        InputError: it is smaller.
    """
    found = least if value is None else int(value)
    if found < least:
        raise InputError(field, f"{found} is too small; choose {least} or more")
    return found


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.042), duration(3.21), duration(75), duration(7300)
    ('42 ms', '3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def bits(value: float, stderr: float | None) -> str:
    """bits/dim with its standard error.

    >>> bits(1.23456, 0.0123), bits(2.0, None)
    ('1.235 ± 0.012 bits/dim', '2.000 bits/dim')
    """
    return f"{value:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}") + " bits/dim"


def signed(value: float) -> str:
    """A number with two decimals and a true minus sign.

    >>> signed(-0.001), signed(-1.5)
    ('0.00', '−1.50')
    """
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
