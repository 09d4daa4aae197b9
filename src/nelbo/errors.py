"""The two ways in which nelbo stops: the user's input cannot be used, or something else went wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input cannot be used: exit code 2 and one line that names the field or file and the mend.

    Args:
        where: the field, option or file at fault, as the user wrote it.
        problem: what is wrong with it and how to mend it, in one line.
    """

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        self.problem = problem
        super().__init__(f"{where}: {problem}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to ``word``: ``"; did you mean 'digits'?"`` or ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
