"""Errors for the command line: a field such as ``eta`` becomes the option ``--eta``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownOptionError

from nelbo.cli.help import COMMANDS
from nelbo.config.families import families_with
from nelbo.errors import InputError


def option_word(field: str) -> str:
    """The option of a field, without dashes. T stays T."""
    return field.strip("_").replace("_", "-")


def option(field: str) -> str:
    """The option of a field."""
    return "-n" if field == "n" else "--" + option_word(field)


def in_options(text: str) -> str:
    """The text with fields in backticks as options.

    >>> in_options("add `skip_bad`")
    'add --skip-bad'
    """
    return re.sub(r"`([A-Za-z]\w*)`", lambda found: option(found[1]), text)


def options_of(app: App, argv: Sequence[str]) -> set[str]:
    """All options of the command in ``argv``; empty if there is no command."""
    _, apps, _ = app.parse_commands(list(argv))
    if apps[-1].default_command is None:
        return set()
    with app.app_stack(apps):  # its settings map fields to options
        return {name for argument in apps[-1].assemble_argument_collection() for name in argument.names}


def others_option(app: App, error: CycloptsError) -> str | None:
    """A line about an option that belongs to another command or family; else None."""
    if not isinstance(error, UnknownOptionError) or not error.command_chain:
        return None
    word = (error.token.keyword or error.token.value).split("=")[0]
    command = " ".join(error.command_chain)
    known = " and ".join(f"'nelbo {name}'" for name in COMMANDS if word in options_of(app, [name]))
    if error.command_chain[0] == "train" and not known:
        families = families_with(word.removeprefix("--").removeprefix("no-").replace("-", "_"))
        known = f"{', '.join(families)}; leave it out, or train one of these" if families else ""
    return f"{word}: is not an option of 'nelbo {command}', but of {known}" if known else None


def on_the_command_line(error: InputError, options: set[str]) -> str:
    """The error in one line, with fields as options if the command has them.

    Args:
        error: the error.
        options: all options of the command.
    """
    fields = error.where.split(", ")
    if all(option(field) in options for field in fields):
        fields = [option(field) for field in fields]
    return f"{', '.join(fields)}: {in_options(error.problem)}"
