"""Names of files inside of a file: relative, with "/", and never outside of the folder that they are written to."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import PurePosixPath

LONGEST = 4096
"""Characters of a name."""


def is_safe(name: str) -> bool:
    """Whether a stored name stays in the folder that it is written to, on this system and on any other.

    >>> [is_safe(name) for name in ("a/b.png", "../b.png", "/b.png", "a//b.png", "a/./b.png", "")]
    [True, False, False, False, False, False]
    """
    parts = name.split("/")
    return (
        0 < len(name) <= LONGEST
        and "\0" not in name
        and not any(part in ("", ".", "..") for part in parts)
        and (os.sep == "/" or not any(sep in part or ":" in part for sep in (os.sep, "\\") for part in parts))
    )


def as_png(names: Mapping[int, str], same: Container[int] = ()) -> dict[int, str]:
    """The names of files to write: a name that ends in .png stays, and others get .png.

    Names that would be equal get a number.

    >>> as_png({0: "a.png", 1: "b.jpg", 2: "b.jpg.png", 3: "c.jpg"}, same=[3])
    {0: 'a.png', 1: 'b.jpg-2.png', 2: 'b.jpg.png', 3: 'c.jpg'}

    Args:
        names: number → name.
        same: numbers whose names stay, because their files are the given ones.
    """
    stay = {number: name for number, name in names.items() if number in same or name.lower().endswith(".png")}
    taken = set(stay.values())
    found = {}
    for number, name in names.items():
        found[number] = stay[number] if number in stay else unused(name, taken)
        taken.add(found[number])
    return found


def unused(name: str, taken: set[str]) -> str:
    """name.png, or else the first unused one of name-2.png, …"""
    number, found = 1, f"{name}.png"
    while found in taken:
        number += 1
        found = f"{name}-{number}.png"
    return found


def class_name(name: str) -> str:
    """The name of a class as the name of a folder.

    >>> class_name("T-shirt/top"), class_name("..")
    ('T-shirt_top', '_')
    """
    plain = name.replace("/", "_").replace("\\", "_").replace("\0", "_").strip()
    return "_" if plain in ("", ".", "..") else str(PurePosixPath(plain))
