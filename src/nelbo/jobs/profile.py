"""Where in t the bits of a run are, as a picture or as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.errors import InputError
from nelbo.metrics import Profile, score_profile
from nelbo.models._diffusion import DiffusionModel
from nelbo.models.base import GenerativeModel
from nelbo.report.paths import free
from nelbo.report.plots import profile_plot
from nelbo.report.progress import bar

PIECES = 50


def require_profile(model: GenerativeModel, out: Path) -> None:
    """Check what ``--profile`` may get wrong, before anything is computed.

    Raises:
        InputError: a family whose bound has no t, another suffix, or a file that exists.
    """
    if not isinstance(model, DiffusionModel):
        raise InputError("--profile", f"the bound of a {model.family} has no t; leave it out")
    if out.suffix.lower() not in (".png", ".csv"):
        raise InputError("--profile", f"{out} ends in neither .png nor .csv")
    free(out, "--profile")


def write_profile(
    model: GenerativeModel, images: Tensor, score: dict[str, Any], seed: int, batch: int, out: Path
) -> None:
    """Measure the profile of these images, and write it.

    Args:
        model: a diffusion model.
        images: what was scored.
        score: what ``nelbo score --json`` prints, for the terms beside the curve.
        seed, batch: of the noise, and images at a time.
        out: .png or .csv.
    """
    assert isinstance(model, DiffusionModel)
    with bar("profile over t", len(images)) as progress:
        profile = score_profile(
            model,
            images,
            pieces=PIECES,
            seed=seed,
            batch=batch,
            progress=lambda done: progress.update(progress.task_ids[0], completed=done),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".csv":
        write_table(profile, out)
    else:
        profile_plot(profile, score).savefig(out, dpi=120)


def write_table(profile: Profile, out: Path) -> None:
    """One row per piece: its edges, its bits/dim, and their standard error over images."""
    width = (profile.edges[1:] - profile.edges[:-1]).tolist()
    mean, error = profile.density()
    with out.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["t_from", "t_to", "bits_per_dim", "stderr"])
        edges = profile.edges.tolist()
        for k, (m, e, w) in enumerate(zip(mean, error, width, strict=True)):
            table.writerow([f"{edges[k]:g}", f"{edges[k + 1]:g}", f"{m * w:.6f}", f"{e * w:.6f}"])
