"""Converters of settings from older formats, each from format n to n + 1.

A converter takes and returns the plain values of a RUN/config.toml. It does not change a run: a new setting gets the
value with which the older run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nelbo.config.families import OURS

FORMAT = 2
Values = Mapping[str, Any]


def from_format_1(values: Values) -> dict[str, Any]:
    """1 → 2: images were split by the rank of their hash, and nelbo's networks had a single revision."""
    earlier: dict[str, dict[str, Any]] = {"data": {"split_by": "rank"}}
    if values.get("family") in OURS:
        earlier["model"] = {"revision": 1}
    tables = {name: values[name] for name in earlier if isinstance(values.get(name), Mapping)}
    return {**values, **{name: {**earlier[name], **table} for name, table in tables.items()}}


CONVERTERS: dict[int, Callable[[Values], dict[str, Any]]] = {1: from_format_1}


def converted(values: Values) -> dict[str, Any]:
    """The same settings in format ``FORMAT``; unchanged if there is no converter for their format."""
    found = dict(values)
    while type(number := found.get("format")) is int and number in CONVERTERS:
        found = CONVERTERS[number](found) | {"format": number + 1}
    return found
