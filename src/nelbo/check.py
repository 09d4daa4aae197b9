"""From values to checked settings, and from a pydantic error to one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nelbo.errors import InputError, nearest

M = TypeVar("M", bound=BaseModel)


def checked(kind: type[M], values: Mapping[str, Any], where: Callable[[str], str] = str) -> M:
    """Make settings of ``kind`` from plain values.

    Args:
        kind: the class of the settings.
        values: field → value.
        where: field → its name for the user, such as ``my.toml: [training] lr``; by default the field.

    Raises:
        InputError: a value is wrong; the message is about the first one.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        field, problem = first_problem(error, kind)
        raise InputError(where(field), problem) from None


def first_problem(error: ValidationError, kind: type[BaseModel] | None = None) -> tuple[str, str]:
    """The first wrong field, dotted, and its problem."""
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"] if not isinstance(part, int)]
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields) if kind is not None else []
        return ".".join(names), f"is not a setting{nearest(names[-1], known)}"
    if first["type"] == "missing":
        return ".".join(names), "is missing"
    if first["type"] == "string_pattern_mismatch":
        form = {"size": "must be height and width as HxW, for example 64x48", "sha256": "must be 64 hexadecimal digits"}
        return ".".join(names), f"{form[names[-1]]}, not {first['input']!r}"
    problem = first["msg"][:1].lower() + first["msg"][1:]
    return ".".join(names), f"{problem}, not {first['input']!r}"
