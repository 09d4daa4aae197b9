"""The error for unusable input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input cannot be used: exit code 2 and one line with the field or file and a remedy.

    Args:
        where: the field, option or file, as the user wrote it.
        problem: the problem and its remedy, in one line.
    """

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        self.problem = problem
        super().__init__(f"{where}: {problem}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the most similar known word: ``"; did you mean 'digits'?"`` or ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
