"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from nelbo.units import uniform_bits

if TYPE_CHECKING:
    from nelbo.metrics.quality import Modes
    from nelbo.report.results import Classification, Evaluation, Measure, Score


MOST_CLASSES = 20
"""The largest number of classes in a table of confusions."""


def table_of(*headings: str) -> Table:
    """An empty table, with names on the left and numbers on the right."""
    table = Table()
    for i, name in enumerate(headings):
        table.add_column(name, justify="right" if i else "left")
    return table


def score_table(score: Score) -> Table:
    """The terms of a score in bits/dim, with the uniform code for comparison."""
    if score.kind == "none":
        return measures_table(score.measures)
    table = table_of("term", "bits/dim", "± s.e.")
    for name, term in score.terms.items():
        table.add_row(name, f"{term.bits_per_dim:.4f}", error(term.stderr))
    table.add_section()
    table.add_row(f"total ({score.kind})", f"{score.bits_per_dim:.4f}", error(score.stderr), style="bold")
    if (missing := score.extras.get("difference")) is not None:
        table.add_row("bound − total", f"{missing.bits_per_dim:.4f}", error(missing.stderr))
    if (labelled := score.given_labels) is not None:
        table.add_row("given the labels", f"{labelled.bits_per_dim:.4f}", "")
        table.add_row("saved by the label, paired", f"{labelled.saved:+.4f}", error(labelled.stderr))
    if (paired := score.baseline) is not None:
        table.add_row("baseline", f"{paired.bits_per_dim:.4f}", "")
        table.add_row("total − baseline, paired", f"{paired.difference:+.4f}", error(paired.stderr))
    if (found := score.against) is not None:
        table.add_section()
        table.add_row(f"{found.split}, {found.n:,} images", f"{found.bits_per_dim:.4f}", "")
        table.add_row("AUROC by the total", f"{found.auroc_total:.4f}", error(found.auroc_total_stderr))
        if found.auroc_profile is not None:
            table.add_row("AUROC by the profile", f"{found.auroc_profile:.4f}", error(found.auroc_profile_stderr))
    if (limit := score.threshold) is not None:
        table.add_section()
        table.add_row(f"threshold, {percent(limit.false_alarms)} false alarms", f"{limit.bits_per_dim:.4f}", "")
        table.add_row("its rate, 95% interval", f"{percent(limit.low)} to {percent(limit.high)}", "")
        table.add_row("images over it", f"{score.over:,} of {score.n:,}", "")
    for coded in score.files:
        steps = "" if coded.steps is None else f" in {coded.steps} steps"
        name = escape(f"{Path(coded.file).name}, {coded.images:,} images{steps}")
        table.add_row(name, f"{coded.bits_per_dim:.4f}", "")
    table.add_row(f"uniform code, log2 {score.levels}", f"{uniform_bits(score.levels):.4f}", "", style="dim")
    return table


def measures_table(measures: Mapping[str, Measure | float]) -> Table:
    """Measures without bits: name → value, with its error if known."""
    table = table_of("measure", "value", "± s.e.")
    for name, found in measures.items():
        if isinstance(found, float):
            table.add_row(name, f"{found:.6g}", "")
        else:
            table.add_row(name, measure_text(found, ".6g"), error(found.stderr))
    return table


def measure_text(found: Measure, digits: str) -> str:
    """A measure in a format like ``.3f``; a lower bound with a negative estimate proves nothing."""
    return f"{found.value:{digits}}" + (" (no evidence)" if found.estimate is not None else "")


def modes_rows(modes: Modes | None) -> dict[str, float]:
    """The classifier's results on the samples, as rows of a table."""
    if modes is None:
        return {}
    rows = {
        "readable samples": modes.readable,
        "readable images": modes.readable_images,
        "p of equal class counts": modes.p_value,
    }
    return rows if modes.as_asked is None else {**rows, "read as the label asked for": modes.as_asked}


def score_title(score: Score) -> str:
    """A line with the run, its data and the images."""
    images = f"{score.n:,} images of {score.dims:,} dimensions"
    title = f"{score.family} on {score.data}, {score.split} split, {images}, {score.weights} weights"
    title += "" if score.T is None else f", T = {score.T}"
    title += "" if score.k is None else f", k = {score.k}"
    if score.kind == "none":
        return f"{title}; no bits/dim: {score.why}"
    return title if score.why is None else f"{title}; {score.form} form, {score.why}"


def evaluation_title(found: Evaluation) -> str:
    """A line with the samples, the images and the features."""
    return (
        f"{found.samples:,} samples of {found.family} ({found.sampling}) beside {found.n:,} images of {found.data}, "
        f"{found.split} split, features {found.features} {found.features_sha256[:12]}"
    )


def classification_title(found: Classification) -> str:
    """A line with the run, its data, the images and the work."""
    return (
        f"{found.family} on {found.data}, {found.split} split, {found.n:,} images of {len(found.classes):,} classes, "
        f"{found.weights} weights; {found.evaluations_per_image:.1f} network evaluations an image"
    )


def classification_table(found: Classification) -> Table:
    """The shares of right and of undecided labels."""
    shares = {"right": found.right, "right of the decided": found.right_of_decided, "log loss, nats": found.log_loss}
    table = table_of("measure", "value", "± s.e.")
    for name, measure in shares.items():
        if measure is not None:
            table.add_row(name, f"{measure.value:.4f}", error(measure.stderr))
    table.add_row("undecided", f"{found.undecided:.4f}", "")
    if found.calibration_error is not None:
        table.add_row("calibration error", f"{found.calibration_error:.4f}", "")
    return table


def confusion_table(found: Classification) -> Table:
    """Images of each class by their label; of many classes only those with a confusion."""
    counts = found.confusion
    assert counts is not None
    shown = list(range(len(found.classes)))
    if len(shown) > MOST_CLASSES:
        wrong = [sum(counts[k]) - counts[k][k] + sum(row[k] for row in counts) - counts[k][k] for k in shown]
        shown = sorted(sorted(shown, key=lambda k: -wrong[k])[:MOST_CLASSES])
    table = table_of("class \\ label", *(found.classes[k] for k in shown), "undecided")
    for k in shown:
        table.add_row(found.classes[k], *(str(counts[k][j] or "") for j in (*shown, -1)))
    return table


def calibration_table(found: Classification) -> Table:
    """Stated probabilities against the share that is right."""
    table = table_of("stated P(y|x)", "images", "mean stated", "right")
    for each in found.calibration or []:
        table.add_row(f"{each.low:.1f} to {each.high:.1f}", str(each.n), f"{each.stated:.3f}", f"{each.right:.3f}")
    return table


def percent(rate: float) -> str:
    """A rate in percent, with two significant digits."""
    return f"{100 * rate:.2g}%"


def error(value: float | None) -> str:
    """A standard error for a table."""
    return "" if value is None else f"{value:.4f}"
