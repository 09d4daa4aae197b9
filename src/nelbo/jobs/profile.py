"""bits/dim of a run for each piece of t, as a picture or as a table."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs.sharded import shared_profile
from nelbo.metrics import Profile
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.processes import rank
from nelbo.report.paths import free
from nelbo.report.plots import profile_plot
from nelbo.report.results import Score

PIECES = 50


def require_profile(model: GenerativeModel, out: Path) -> None:
    """Check the arguments of ``profile`` before anything is computed.

    Raises:
        InputError: the family's bound has no t, the suffix is wrong, or the file exists.
    """
    if not isinstance(model, Diffusion) or not model.timeline.has_terms:
        raise InputError("profile", f"the bound of this {model.family} has no t; leave it out")
    if out.suffix.lower() not in (".png", ".csv"):
        raise InputError("profile", f"{out} must end in .png or .csv")
    free(out, "profile")


def write_profile(model: GenerativeModel, images: Tensor, score: Score, seed: int, batch: int, out: Path) -> None:
    """Measure the profile of these images, and write it.

    Args:
        model: a diffusion model.
        images: the scored images.
        score: the score of these images, for the other terms.
        seed, batch: the seed of the noise, and images per batch.
        out: .png or .csv.
    """
    assert isinstance(model, Diffusion)
    profile = shared_profile(model, images, "profile over t", pieces=PIECES, seed=seed, batch=batch)
    if rank():
        return
    with atomic_write(out) as aside:
        if out.suffix.lower() == ".csv":
            write_table(profile, aside)
        else:
            profile_plot(profile, score).savefig(aside, dpi=120)


def write_table(profile: Profile, out: Path) -> None:
    """One row per piece: its edges (for steps: t_from < t ≤ t_to), its bits/dim, and the standard error over images."""
    edges = profile.edges.tolist()
    with out.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["t_from", "t_to", "bits_per_dim", "stderr"])
        for (start, end), bits, error in zip(pairwise(edges), *(part.tolist() for part in profile.bits()), strict=True):
            table.writerow([f"{start:g}", f"{end:g}", f"{bits:.6f}", f"{error:.6f}"])
