"""Command lines for messages: what a user can paste to get what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from nelbo.options import DataOptions
from nelbo.report.paths import unused

MINUTES = 5
"""How long an ``ae`` is to be trained for its codes: images of up to 64 × 64 are told apart by then."""


def data_words(options: DataOptions) -> list[str]:
    """The options that read these data: ``--data``, and those that are not at their default."""
    words = []
    for name, field in DataOptions.model_fields.items():  # a run records more than these
        value = getattr(options, name)
        if value != field.default or name == "data":
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return words


def pasteable(words: Iterable[str | Path]) -> str:
    """A command line of nelbo as a shell takes it."""
    return shlex.join(["nelbo", *map(str, words)])


def codes_instead(options: DataOptions, name: str) -> str:
    """How to get features of images without labels: the command, and how long it takes."""
    out = unused(Path("runs"), f"ae-{name}", "")
    command = pasteable(["train", "ae", *data_words(options), "--minutes", str(MINUTES), "--out", out])
    then = f"then add --features {shlex.quote(str(out))} to 'nelbo evaluate'"
    return f"an ae's codes will do: {command} (it stops after {MINUTES} minutes, by --minutes), {then}"
