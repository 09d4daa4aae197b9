"""Plots, drawn without a display."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nelbo.metrics import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR, PALE = "#2f5d8a", "#c9d6e4"


def profile_plot(profile: Profile, score: dict[str, Any]) -> Figure:
    """Where in t the bits are: the area under the curve is the diffusion term; the other terms are bars beside it.

    Args:
        profile: bits/dim over t.
        score: what ``nelbo score --json`` prints.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, 1))
    mean, error = profile.density()
    edges = profile.edges.tolist()
    middle = [(a + b) / 2 for a, b in pairwise(edges)]
    left.stairs(mean, edges, fill=True, color=PALE)
    left.stairs(mean, edges, color=COLOUR)
    left.errorbar(middle, mean, yerr=error, fmt="none", ecolor=COLOUR, elinewidth=1)
    continuous = edges[-1] <= 1
    left.set(
        xlabel="t" if continuous else "t, step", ylabel="bits/dim per unit of t" if continuous else "bits/dim per step"
    )
    left.set_xlim(edges[0], edges[-1])
    left.set_ylim(bottom=0)
    names = list(score["terms"])
    values = [score["terms"][name]["bits_per_dim"] for name in names]
    bars = right.bar(names, values, color=[COLOUR if name == "diffusion" else PALE for name in names])
    right.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    right.margins(y=0.15)
    right.set_ylabel("bits/dim")
    right.tick_params(axis="x", rotation=35, labelsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    what = f"{score['family']} on {score['data']}, {score['n']:,} images of {score['split']}"
    figure.suptitle(f"{what}: {score['bits_per_dim']:.4f} bits/dim", fontsize=11)
    return figure
