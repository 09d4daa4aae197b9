"""``nelbo edit``: edit images, and write what was given beside what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.jobs.edit import Edited, Verb, edit
from nelbo.jobs.run import Run
from nelbo.jobs.sample import NOT_WRITTEN
from nelbo.options import EditOptions
from nelbo.report.paths import free, unused
from nelbo.report.pictures import grid, picture, save_gif


def write_edit(
    path: Path, verb: Verb, images: tuple[Path, ...], n: int | None, options: EditOptions
) -> tuple[Path, Edited]:
    """Edit images, and write them.

    Returns:
        The path of the result, and the result.

    Raises:
        InputError: an argument cannot be used; nothing has been written then.
    """
    out = options.out
    if out is not None and out.suffix.lower() in NOT_WRITTEN:
        raise InputError("out", f"{out.suffix} is not supported; use a .png, a .gif, an .npz, or a folder")
    film = out is not None and out.suffix.lower() == ".gif"
    if film and verb == "invert":
        raise InputError("out", "invert has no steps to show; use a .png, an .npz, or a folder")
    run = Run(path)
    out = free(out, "out") if out is not None else usual_out(run, verb, options.seed, run.step)
    done = edit(run, verb, *images, n=n, options=options, keep_frames=film)
    if film:
        frames = [*done.images.split(1)] if verb == "interpolate" else done.frames  # type: ignore[no-untyped-call]
        given = done.given[:0] if verb == "interpolate" else done.given
        save_gif([sheet(given, frame, done.levels) for frame in frames], out)
    else:
        save(done, out)
    return out, done


def usual_out(run: Run, verb: str, seed: int, step: int, suffix: str = ".png") -> Path:
    """The first unused path in RUN/samples for draws of a seed by the checkpoint of a step."""
    return unused(run.path / "samples", f"{verb}-step-{step:08d}-seed{seed}", suffix)


def sheet(given: Tensor, drawn: Tensor, levels: int) -> Image.Image:
    """A row for each image: the given one, then those drawn; without given images one grid.

    Args:
        given: uint8, shape (M, C, H, W), or M = 0.
        drawn: uint8, shape (M n, C, H, W).
        levels: L.
    """
    if not len(given):
        return grid(drawn, levels)
    rows = drawn.reshape(len(given), -1, *drawn.shape[1:])
    return grid(torch.cat([given[:, None], rows], 1).flatten(0, 1), levels, columns=1 + rows.shape[1])


def render(done: Edited) -> Image.Image:
    """The result as one picture; the way between two images has these at its ends."""
    if done.verb != "interpolate":
        return sheet(done.given, done.images, done.levels)
    row = torch.cat([done.given[:1], done.images, done.given[1:]])
    return grid(row, done.levels, columns=len(row))


def save(done: Edited, out: Path) -> None:
    """Write the result by the suffix of ``out``: a .png, an .npz, or a folder."""
    with atomic_write(out) as aside:
        if out.suffix.lower() == ".npz":
            arrays = {"images": done.images.permute(0, 2, 3, 1), "given": done.given.permute(0, 2, 3, 1)}
            arrays |= {} if done.latents is None else {"latents": done.latents}
            levels = {"levels": np.int64(done.levels)}
            with aside.open("wb") as file:
                np.savez_compressed(file, **{name: part.numpy() for name, part in arrays.items()}, **levels)  # type: ignore[arg-type]
        elif out.suffix.lower() == ".png":
            render(done).save(aside, format="PNG")
        else:
            aside.mkdir()
            for prefix, part in (("", done.images), ("given-", done.given)):
                for k, image in enumerate(part):
                    picture(image, done.levels).save(aside / f"{prefix}{k:06d}.png")
