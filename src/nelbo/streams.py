"""stdout and stderr that take any text, whatever their encoding, and that may be closed while nelbo writes to them."""

from __future__ import annotations

import codecs
import importlib.util
import io
import os
import sys
import unicodedata
from collections.abc import Callable
from typing import IO, Any, ClassVar

from rich.console import Console

SIGNS = {
    **{"±": "+-", "−": "-", "–": "-", "—": "-", "·": "|", "×": "x", "…": "...", "→": "->", "←": "<-", "↦": "->"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "√": "sqrt ", "∞": "inf", "½": "1/2", "∫": "int ", "∂": "d"},
    **{"∇": "grad ", "‖": "||", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "\u0302": "^", "\u0303": "~"},
    **{"\u0304": "_bar", "ᾱ": "alpha_bar", "∝": "~", "\u00a0": " ", "ⁿ": "^n", "ᵀ": "^T", "⁻": "^-"},
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{k}" for k in range(10)), strict=True)),
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", (f"_{k}" for k in range(10)), strict=True)),
    **dict.fromkeys("─━═╸╺╌", "-"),
    **dict.fromkeys("│┃║", "|"),
}
"""What stands for a sign that an encoding lacks, in ASCII."""
READABLE = "nelbo.readable"
"""The name by which Python's streams know :func:`readable`."""


def readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """What to write for a character that an encoding lacks: an error handler, as ``codecs.register_error`` takes it.

    A byte of a file name that was no text is written as it is, so that the name still leads to the file; a sign as in
    :data:`SIGNS`; a Greek letter by its name; all else by its number, as in ``\\U0001f431``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign, end = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(sign) <= 0xDCFF and "a".encode(error.encoding) == b"a":
        return bytes([ord(sign) - 0xDC00]), end
    if sign in SIGNS:
        return SIGNS[sign], end
    if 0x2500 <= ord(sign) <= 0x257F:  # corners and crossings of tables
        return "+", end
    if 0x2800 <= ord(sign) <= 0x28FF:  # the dots that turn while something is waited for
        return "*", end
    word = unicodedata.name(sign, "").removeprefix("GREEK ").partition(" LETTER ")
    if word[0] in ("SMALL", "CAPITAL") and word[2].isalpha() and unicodedata.name(sign).startswith("GREEK "):
        return word[2].lower() if word[0] == "SMALL" else word[2].title(), end
    return sign.encode("ascii", "backslashreplace").decode(), end


def as_text(name: str) -> str:
    """A file name for a text in UTF-8: a byte of it that is no text becomes ``\\xe9``, or its like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def accept_any_text() -> None:
    """Let stdout and stderr take every character, as :func:`readable` writes it where their encoding lacks it.

    One that was closed before nelbo began (``>&-``) leads nowhere.
    """
    codecs.register_error(READABLE, readable)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def close_quietly(stream: IO[str] | None) -> None:
    """Send what is still written to a stream nowhere: whoever read it has gone."""
    try:
        descriptor = stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        return
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class Speaker(Console):
    """A console for plain text. When whoever read it has gone it says no more, and the work goes on.

    Args:
        options: as ``rich.console.Console`` takes them.

    Attributes:
        wording: what is done to each text; the command line makes options of the fields in it.
    """

    wording: ClassVar[list[Callable[[str], str]]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As ``rich`` does, in the wording of whoever speaks."""
        for word in self.wording:
            objects = tuple(word(each) if isinstance(each, str) else each for each in objects)
        super().print(*objects, **options)

    @property
    def shows_bars(self) -> bool:
        """Whether a bar can move here: on a terminal, and in a notebook that has ipywidgets."""
        notebook = self.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        return not self.quiet and (self.is_terminal or notebook)

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        close_quietly(self.file)
