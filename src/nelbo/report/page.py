"""One page that compares runs: self-contained HTML, for a phone, for print, and in the dark."""

from __future__ import annotations

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from nelbo.report.plots import curves_plot


def page(runs: list[dict[str, Any]], pictures: list[Image.Image]) -> str:
    """The page, the same for the same input.

    Args:
        runs: for each run what ``nelbo compare`` collects: its name, facts, score, and validation curve.
        pictures: its samples, in the same order.
    """
    environment = Environment(loader=PackageLoader("nelbo.report"), autoescape=select_autoescape())
    environment.filters["number"] = number
    return environment.get_template("compare.html").render(
        runs=[run | {"picture": data_uri(picture)} for run, picture in zip(runs, pictures, strict=True)],
        curves=svg(runs),
        terms=sorted({name for run in runs if run["score"] for name in run["score"]["terms"]}),
    )


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell; nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def data_uri(picture: Image.Image) -> str:
    """A picture inside the page."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def svg(runs: list[dict[str, Any]]) -> str:
    """The validation curves, as an SVG element; nothing where no run has one."""
    if not any(run["curve"] for run in runs):
        return ""
    import matplotlib as mpl

    file = io.StringIO()
    # Names of parts come from a fixed salt, and text stays text: the same page for the same runs.
    with mpl.rc_context({"svg.hashsalt": "nelbo", "svg.fonttype": "none"}):
        curves_plot({run["name"]: run["curve"] for run in runs}).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
