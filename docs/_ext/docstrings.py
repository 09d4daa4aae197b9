"""Docstrings of nelbo as reStructuredText: tables and code keep their lines, and symbols are not markup."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

CODE = re.compile(r"(:(?:mod|class|func|meth|attr|data|obj|exc):`[^`]+`|``.+?``|`[^`]+`)")
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
    return ["", f"{indent}.. code-block:: text", "", *(f"{indent}    {line.strip()}" for line in lines), ""]


def converted(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    out: list[str] = []
    table: list[str] = []
    fenced = False
    for line in [*lines, ""]:
        body = line.lstrip()
        indent = line[: len(line) - len(body)]
        if body.startswith("```"):
            fenced = not fenced
            out += ["", f"{indent}.. code-block:: text", ""] if fenced else [""]
        elif fenced:
            out.append(f"    {line}")
        elif body.startswith("| "):
            table.append(line)
        else:
            if table:
                first = table[0]
                out += literal(table, first[: len(first) - len(first.lstrip())])
                table = []
            out.append(line if body.startswith(">>>") else escaped(line))
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place, before napoleon reads its sections."""
    if name.startswith("nelbo"):
        lines[:] = converted(lines)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listen to autodoc."""
    app.connect("autodoc-process-docstring", process, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
