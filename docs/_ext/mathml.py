"""Equations as MathML, made when the site is built: a page needs no script and no font of another host."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

LONG = 24
"""An equation in a line with more characters of LaTeX may be wider than a phone."""


FUNCTION = re.compile(r"(<mi>(?:ln|log|exp|sin|cos|tan)</mi>)(?!<mo)")
"""The name of a function before its argument without brackets."""


SCRIPT = re.compile(r'<mi mathvariant="script">([A-Z])</mi>')
"""A script letter as the converter writes it, which browsers ignore."""
SCRIPT_LETTERS = dict(zip("BEFHILMR", "ℬℰℱℋℐℒℳℛ", strict=True))
"""Those with a character outside of the block of mathematical letters."""
SOURCE = re.compile(r"^(.*?)[,.]?\s*\\qquad\s*\\text\{([^{}]*\d[^{}]*)\}\s*$", re.DOTALL)
"""An equation, and its source at the end of the line."""


def script(found: re.Match[str]) -> str:
    """The character of a script letter."""
    letter = found[1]
    return f"<mi>{SCRIPT_LETTERS.get(letter, chr(0x1D49C + ord(letter) - ord('A')))}</mi>"


def typeset(latex: str, display: str) -> str:
    """MathML; ∼ is a relation, and a function has a thin space before its argument, which the converter leaves out."""
    found = convert(latex, display=display).replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")
    return SCRIPT.sub(script, FUNCTION.sub(r'\1<mspace width="0.167em"/>', found))


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """An equation in a line of text."""
    text = node.astext()
    size = "math-long" if len(text) > LONG else "math-short"
    self.body.append(f'<span class="{size}">{typeset(text, "inline")}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own; on a small screen it scrolls in its box."""
    cited = SOURCE.match(node.astext())
    equation, source = cited.groups() if cited else (node.astext(), "")
    self.body.append(f'<div class="math-block">{typeset(equation, "block")}</div>')
    if source:
        self.body.append(f'<p class="math-source">{source}</p>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
