"""Plots, drawn without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nelbo.metrics import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nelbo.report.results import Score

COLOUR, PALE = "#2f5d8a", "#c9d6e4"


def profile_plot(profile: Profile, score: Score) -> Figure:
    """bits/dim over t, where the area under the curve is the diffusion term, beside all terms.

    Args:
        profile: bits/dim over t.
        score: the score of the same images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 2))
    draw_density(left, profile)
    draw_terms(right, {name: term.bits_per_dim for name, term in score.terms.items()})
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
    what = f"{score.family} on {score.data}, {score.n:,} images of {score.split}"
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{what}: {score.bits_per_dim:.4f}{error} bits/dim ({score.kind})", fontsize=11)
    return figure


def draw_density(axes: Axes, profile: Profile) -> None:
    """bits/dim per unit of t over t, ± one standard error over images, with ln SNR = −γ at the top."""
    edges, width = profile.edges.numpy(), profile.width.numpy()
    mean, error = (bits.numpy() for bits in profile.bits())
    low, high = ((mean + side * error) / width for side in (-1, 1))
    middle = np.interp(0.5 * mean.sum(), np.concatenate([[0.0], mean.cumsum()]), edges)
    area = f"area: the diffusion term, {mean.sum():.4f} bits/dim"
    axes.stairs(mean / width, edges, fill=True, color=PALE, label=area)
    axes.stairs(mean / width, edges, color=COLOUR, baseline=None, linewidth=0.8)
    axes.stairs(high, edges, baseline=low, fill=True, color=COLOUR, alpha=0.6, label="± 1 s.e. over images")
    axes.axvline(middle, color="0.35", linestyle=":", label=f"half of it: t < {middle:.3g}")
    continuous = edges[-1] <= 1
    axes.set_xlabel("t" if continuous else "t (step)")
    axes.set_ylabel("bits/dim per unit of t" if continuous else "bits/dim per step")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    ticks = [t for t in axes.get_xticks() if edges[0] < t < edges[-1]]
    marks = np.array([edges[0], *ticks, edges[-1]])
    axes.set_xticks(marks, [f"{t:g}" for t in marks])
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        marks, [f"{-gamma:.1f}".replace("-", "−") for gamma in np.interp(marks, edges, profile.gamma.numpy())]
    )
    top.set_xlabel("ln SNR")


def draw_terms(axes: Axes, terms: dict[str, float]) -> None:
    """The terms of a bound, name → bits/dim, as bars with their values."""
    colours = [COLOUR if name == "diffusion" else PALE for name in terms]
    bars = axes.barh(list(terms), list(terms.values()), height=0.5, color=colours)
    axes.bar_label(bars, fmt="%.4f", fontsize=9, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlabel("bits/dim")


def diffusion_profiles_plot(found: dict[str, dict[str, list[float]]]) -> Figure:
    """bits/dim per unit of t of several runs, with t scaled to [0, 1].

    Args:
        found: name → ``edges`` of pieces of t, and ``bits`` of each piece.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for name, pieces in found.items():
        edges, bits = np.array(pieces["edges"]), np.array(pieces["bits"])
        edges = (edges - edges[0]) / (edges[-1] - edges[0])
        axes.stairs(bits / np.diff(edges), edges, baseline=None, label=f"{name}: {bits.sum():.3f}", linewidth=1.4)
    axes.set(xlabel="t, from image to noise", ylabel="bits/dim per unit of t", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, title="diffusion term", alignment="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def terms_plot(found: dict[str, dict[str, Any]]) -> Figure:
    """The terms of several scores as bars, with a panel for each score.

    Args:
        found: name → the result of ``nelbo score --json``, with a bound.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    most = max(len(score["terms"]) for score in found.values())
    figure = Figure(figsize=(7.0, rows * (0.8 + 0.22 * most)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, score) in zip(panels, found.items(), strict=False):
        draw_terms(axes, {term: each["bits_per_dim"] for term, each in score["terms"].items()})
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    return figure


def curves_plot(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """bits/dim on ``val`` against minutes of training.

    Args:
        curves: name → (seconds, bits/dim) of each preview; runs without previews are omitted.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        if points:
            seconds, bits = zip(*points, strict=True)
            axes.plot([second / 60 for second in seconds], bits, marker="o", markersize=3, label=name)
    axes.set(xlabel="minutes of training", ylabel="bits/dim on val")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
