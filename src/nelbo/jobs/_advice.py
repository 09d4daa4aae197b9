"""Command lines for messages, which the user can paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from nelbo.options import DataOptions
from nelbo.report.paths import unused

MINUTES = 5
"""Minutes to train an ``ae`` whose codes serve as features; enough for images of up to 64 × 64."""


def data_words(options: DataOptions) -> list[str]:
    """The options that read these data: ``--data``, and those without their default value."""
    words = []
    for name, field in DataOptions.model_fields.items():  # a run records more than these
        value = getattr(options, name)
        if value != field.default or name == "data":
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return words


def pasteable(words: Iterable[str | Path]) -> str:
    """A nelbo command line, quoted for a shell."""
    return shlex.join(["nelbo", *map(str, words)])


def codes_instead(options: DataOptions, name: str) -> str:
    """How to get features of images without labels: the command, and its duration."""
    out = unused(Path("runs"), f"ae-{name}", "")
    command = pasteable(["train", "ae", *data_words(options), "--minutes", str(MINUTES), "--out", out])
    then = f"then add --features {shlex.quote(str(out))} to 'nelbo evaluate'"
    return f"use an ae's codes: {command} (it stops after {MINUTES} minutes, by --minutes), {then}"
