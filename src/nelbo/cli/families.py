"""``nelbo train``: a command per family; only the requested family is imported."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from cyclopts import App

from nelbo.config.families import family_names, family_summary, family_word
from nelbo.errors import InputError

HELP = """Train a model. Prints the run directory; progress goes to stderr.

```
nelbo train ddpm --data mnist
nelbo train ddpm --data photos/ --size 64x48 --fit crop --minutes 60
```

Ctrl-C writes a checkpoint; the same command with --resume continues. 'nelbo train FAMILY --help' lists every option.
"""


def train_app(argv: Sequence[str]) -> App:
    """``train``, with a command per family. Only the requested family's module is imported."""
    app = App(name="train", help=HELP, help_format="markdown")
    asked = asked_family(argv)
    for family in family_names():
        if family == asked:
            app.command(importlib.import_module("nelbo.cli.train").family_command(family), name=family)
        else:
            app.command(App(name=family, help=family_summary(family)))
    return app


def asked_family(argv: Sequence[str]) -> str | None:
    """The word after ``train``, if there is one, checked to be a family."""
    if list(argv[:1]) != ["train"] or len(argv) < 2 or argv[1] in ("--help", "-h", "--version"):
        return None
    if argv[1].startswith("-"):
        raise InputError("FAMILY", f"must precede the options: nelbo train FAMILY {argv[1]} …")
    return family_word(argv[1])
