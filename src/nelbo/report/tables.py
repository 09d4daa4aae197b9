"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from nelbo.units import uniform_bits


def score_table(score: dict[str, Any]) -> Table:
    """The terms of a score, in bits/dim, beside the code that knows nothing.

    Args:
        score: what ``nelbo score --json`` prints.
    """
    if score["kind"] == "none":
        return measures_table(score["measures"])
    if score["kind"] == "samples":
        return measures_table(score["quality"] | modes_rows(score))
    table = Table()
    table.add_column("term")
    table.add_column("bits/dim", justify="right")
    table.add_column("± s.e.", justify="right")
    for name, term in score["terms"].items():
        table.add_row(name, f"{term['bits_per_dim']:.4f}", error(term["stderr"]))
    table.add_section()
    table.add_row(f"total ({score['kind']})", f"{score['bits_per_dim']:.4f}", error(score["stderr"]), style="bold")
    if "difference" in score:
        missing = score["difference"]
        table.add_row("bound − total", f"{missing['bits_per_dim']:.4f}", error(missing["stderr"]))
    if "baseline" in score:
        paired = score["baseline"]
        table.add_row("baseline", f"{paired['bits_per_dim']:.4f}", "")
        table.add_row("total − baseline, paired", f"{paired['difference']:+.4f}", error(paired["stderr"]))
    if "against" in score:
        found = score["against"]
        table.add_section()
        table.add_row(f"{found['split']}, {found['n']:,} images", f"{found['bits_per_dim']:.4f}", "")
        for name in ("total", "profile"):
            if f"auroc_{name}" in found:
                value, stderr = found[f"auroc_{name}"], found[f"auroc_{name}_stderr"]
                table.add_row(f"AUROC by the {name}", f"{value:.4f}", error(stderr))
    table.add_row(f"uniform code, log2 {score['levels']}", f"{uniform_bits(score['levels']):.4f}", "", style="dim")
    return table


def measures_table(measures: dict[str, dict[str, float | None]]) -> Table:
    """What is measured where there are no bits: name → value and error."""
    table = Table()
    for name in ("measure", "value", "± s.e."):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for name, found in measures.items():
        table.add_row(name, measure_text(found, ".6g"), error(found["stderr"]))
    return table


def measure_text(found: Mapping[str, float | None], digits: str) -> str:
    """A measure as a format like ``.3f`` writes it; a bound whose estimate is below 0 proves nothing."""
    return f"{found['value']:{digits}}" + (" (nothing proved)" if "estimate" in found else "")


def modes_rows(score: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What the classifier says of the samples, as rows of a table."""
    modes = score.get("modes")
    if modes is None:
        return {}
    rows = {
        "readable samples": modes["readable"],
        "readable images": modes["readable_images"],
        "p of equal class counts": modes["p_value"],
    }
    return {name: {"value": value, "stderr": None} for name, value in rows.items()}


def score_title(score: dict[str, Any]) -> str:
    """What was scored, on what, in one line."""
    if score["kind"] == "samples":
        return (
            f"{score['samples']:,} samples of {score['family']} ({score['sampling']}) beside {score['n']:,} images of "
            f"{score['data']}, {score['split']} split, features {score['features']} {score['features_sha256'][:12]}"
        )
    images = f"{score['n']:,} images of {score['dims']:,} dimensions"
    title = f"{score['family']} on {score['data']}, {score['split']} split, {images}, {score['weights']} weights"
    title += f", T = {score['T']}" if "T" in score else ""
    title += f", k = {score['k']}" if "k" in score else ""
    if score["kind"] == "none":
        return f"{title}; no bits/dim: {score['why']}"
    return f"{title}; {score['form']} form, {score['why']}" if "why" in score else title


def error(value: float | None) -> str:
    """A standard error for a table."""
    return "" if value is None else f"{value:.4f}"
