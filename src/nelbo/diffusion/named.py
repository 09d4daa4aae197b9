"""Schedules and objectives as text: ``cosine``, or with other parameters than the default, ``cosine(s=0.01)``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nelbo.errors import InputError, nearest


def from_words(words: str, kinds: Mapping[str, Callable[..., Any]], where: str) -> Any:
    """The object that the text names.

    >>> from nelbo.diffusion.schedules import SCHEDULES
    >>> from_words("cosine(s=0.01)", SCHEDULES, "schedule").s
    0.01

    Args:
        words: a name, with parameters in brackets if they differ from the defaults.
        kinds: every name and its constructor.
        where: the field, for a message.

    Raises:
        InputError: the name is unknown, or does not take these parameters.
    """
    name, bracket, _ = words.partition("(")
    if name not in kinds:
        raise InputError(where, f"{name!r} is not a known {where}{nearest(name, kinds)} ({where}s: {', '.join(kinds)})")
    try:
        call = ast.parse(words if bracket else f"{words}()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise TypeError
        given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        return kinds[name](**given)
    except (SyntaxError, TypeError, ValueError):
        numbers = ", ".join(f"{p.name}={p.default}" for p in inspect.signature(kinds[name]).parameters.values())
        fix = f"write {name}({numbers})" if numbers else f"write {name}; it takes no numbers"
        raise InputError(where, f"{words!r} cannot be read; {fix}") from None


def in_words(thing: object, kinds: Mapping[str, Callable[..., Any]]) -> str | None:
    """The text that names an object, or None if its class is not in ``kinds``.

    >>> from nelbo.diffusion.objectives import OBJECTIVES, MinSNR
    >>> in_words(MinSNR(5.0), OBJECTIVES), in_words(MinSNR(3.0), OBJECTIVES)
    ('min_snr', 'min_snr(k=3.0)')
    """
    for name, kind in kinds.items():
        if type(thing) is kind:
            parameters = inspect.signature(kind).parameters.values()
            given = {p.name: getattr(thing, p.name) for p in parameters if getattr(thing, p.name) != p.default}
            return f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})" if given else name
    return None
