"""One page that compares runs: self-contained HTML, for a phone, for print, and in the dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from nelbo.report.plots import curves_plot, diffusion_profiles_plot, terms_plot
from nelbo.streams import as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Pictures(NamedTuple):
    """What is drawn of one run.

    Attributes:
        samples: drawn by it.
        views: how it works, with titles.
        real: images of its data, if they are at hand.
    """

    samples: Image.Image
    views: list[tuple[str, Image.Image]]
    real: Image.Image | None


def page(kept: dict[str, Any], pictures: Sequence[Pictures]) -> str:
    """The page, the same for the same input.

    Args:
        kept: what compare.json holds: of each run its name, facts, scores and validation curve; paired differences.
        pictures: of each run.
    """
    runs = kept["runs"]
    environment = Environment(loader=PackageLoader("nelbo.report"), autoescape=select_autoescape())
    environment.filters["number"] = number
    text: str = environment.get_template("compare.html").render(
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
    return as_text(text)


def measure_order(name: str) -> tuple[bool, str]:
    """Distances first."""
    return (not name.startswith(("FD-", "KD-", "FID", "KID")), name)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell; nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def data_uri(picture: Image.Image) -> str:
    """A picture inside the page."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def svg(plot: Callable[[dict[str, Any]], Figure], runs: list[dict[str, Any]], what: str) -> str:
    """A plot of what the runs have under this name, as an SVG element; nothing where none has it."""
    found = {as_text(run["name"]): run[what] for run in runs if run[what]}
    if not found:
        return ""
    import matplotlib as mpl

    file = io.StringIO()
    # Names of parts come from a fixed salt, and text stays text: the same page for the same runs.
    with mpl.rc_context({"svg.hashsalt": f"nelbo {what}", "svg.fonttype": "none"}):
        plot(found).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
