"""A page that compares runs: self-contained HTML for phones, print and dark mode."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from nelbo.report.plots import curves_plot, diffusion_profiles_plot, terms_plot
from nelbo.report.tables import percent
from nelbo.streams import as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Pictures(NamedTuple):
    """The pictures of one run.

    Attributes:
        samples: samples of the run.
        views: pictures of how it works, with titles.
        real: images of its data, or None if they are not available.
    """

    samples: Image.Image
    views: list[tuple[str, Image.Image]]
    real: Image.Image | None


def page(kept: dict[str, Any], pictures: Sequence[Pictures]) -> str:
    """The page; equal input gives an equal page.

    Args:
        kept: the contents of compare.json: name, facts, scores and validation curve of each run; paired differences.
        pictures: of each run.
    """
    runs = kept["runs"]
    return rendered(
        "compare.html",
        runs=[
            run | {"picture": data_uri(own.samples), "views": [(title, data_uri(each)) for title, each in own.views]}
            for run, own in zip(runs, pictures, strict=True)
        ],
        reals={
            f"{run['data']}, {run['split']}": data_uri(own.real)
            for run, own in zip(runs, pictures, strict=True)
            if own.real is not None
        },
        differences=kept["differences"],
        unlike=kept["unlike"],
        measures=sorted(
            {name for run in runs if run["samples"] for name in run["samples"]["quality"]}, key=measure_order
        ),
        curves=svg(curves_plot, runs, "curve"),
        diffusion_profile=svg(diffusion_profiles_plot, runs, "diffusion_profile"),
        parts=svg(terms_plot, [run for run in runs if run["score"] and run["score"]["terms"]], "score"),
    )


def rendered(template: str, **values: Any) -> str:
    """A template of this room with these values, for a file in UTF-8."""
    environment = Environment(loader=PackageLoader("nelbo.report"), autoescape=select_autoescape())
    environment.filters |= {"number": number, "percent": percent, "uri": data_uri}
    text: str = environment.get_template(template).render(**values)
    return as_text(text)


def measure_order(name: str) -> tuple[bool, str]:
    """A sort key that puts distances first."""
    return (not name.startswith(("FD-", "KD-", "FID", "KID")), name)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell, or "" for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def data_uri(picture: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def svg(plot: Callable[[dict[str, Any]], Figure], runs: list[dict[str, Any]], what: str) -> str:
    """A plot of this entry of all runs that have it, as an SVG element; "" if none has it."""
    found = {as_text(run["name"]): run[what] for run in runs if run[what]}
    if not found:
        return ""
    import matplotlib as mpl

    file = io.StringIO()
    # A fixed salt for element names, and text as text, so that the same runs give the same page.
    with mpl.rc_context({"svg.hashsalt": f"nelbo {what}", "svg.fonttype": "none"}):
        plot(found).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
