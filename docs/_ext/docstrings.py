"""Docstrings of nelbo as reStructuredText: tables, equations and code keep their lines, and symbols are not markup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

CODE = re.compile(r"(:(?:mod|class|func|meth|attr|data|obj|exc):`[^`]+`|``.+?``|`[^`]+`)")
SECTION = re.compile(r"[A-Z]\w+:$")
"""The first line of a section, as ``Args:``; its indented lines are not equations."""
BEFORE_NAPOLEON = 400


def escaped(line: str) -> str:
    """The line without markup, except roles and code in backticks."""
    parts = CODE.split(line)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = part if part.startswith(":") else f"``{part.strip('`')}``"
        else:
            text = re.sub(r"([*|\\])", r"\\\1", part)
            parts[place] = re.sub(r"(?<=\w)_(?=\W|$)", r"\_", text)
    return "".join(parts)


def literal(lines: list[str], indent: str) -> list[str]:
    """A literal block of these lines."""
    return ["", f"{indent}.. code-block:: text", "", *(f"{indent}    {line}".rstrip() for line in lines), ""]


def blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The lines in groups: ``code`` in fences, a ``table``, an ``equation`` (indented), or one line of ``text``."""
    section, at = False, 0
    while at < len(lines):
        first, body = lines[at], lines[at].lstrip()
        if body.startswith("```"):
            kind, end = "code", next(n for n in range(at + 1, len(lines)) if lines[n].lstrip().startswith("```")) + 1
        elif body.startswith("| "):
            kind, end = "table", following(lines, at, lambda line: line.lstrip().startswith("| "))
        elif (
            body != first and not section and not (at and lines[at - 1].strip()) and not body.startswith((">>>", "- "))
        ):
            kind, end = "equation", following(lines, at, lambda line: not line or line.startswith(" "))
        else:
            kind, end = "text", at + 1
            if body and body == first:
                section = bool(SECTION.match(first))
        yield kind, lines[at:end]
        at = end


def following(lines: list[str], at: int, belongs: Callable[[str], bool]) -> int:
    """The end of the lines from ``at`` on that belong together."""
    return next((n for n in range(at + 1, len(lines)) if not belongs(lines[n])), len(lines))


def converted(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    out: list[str] = []
    for kind, block in blocks(lines):
        indent = block[0][: len(block[0]) - len(block[0].lstrip())]
        if kind == "text":
            out.append(block[0] if block[0].lstrip().startswith(">>>") else escaped(block[0]))
        elif kind == "code":
            out += literal([line[len(indent) :] for line in block[1:-1]], indent)
        else:
            out += literal([line[len(indent) :] for line in block], "" if kind == "equation" else indent)
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads its sections."""
    if name.startswith("nelbo"):
        lines[:] = converted(lines)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listen to autodoc."""
    app.connect("autodoc-process-docstring", process, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
