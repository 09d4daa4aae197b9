"""Settings of earlier formats made settings of this one: a function for each format n, to format n + 1.

A converter takes and returns the plain values of a RUN/config.toml. It never changes what a run is: a setting that is
new gets the value by which the older run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 2
Values = Mapping[str, Any]


def split_by_rank(values: Values) -> dict[str, Any]:
    """1 → 2: images were dealt to splits by the rank of their hash."""
    data = values.get("data")
    return {**values, "data": {"split_by": "rank", **data} if isinstance(data, Mapping) else data}


CONVERTERS: dict[int, Callable[[Values], dict[str, Any]]] = {1: split_by_rank}


def converted(values: Values) -> dict[str, Any]:
    """The same settings in format ``FORMAT``; unchanged if their format is none that can be converted."""
    found = dict(values)
    while type(number := found.get("format")) is int and number in CONVERTERS:
        found = CONVERTERS[number](found) | {"format": number + 1}
    return found
