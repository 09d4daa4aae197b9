"""The row of a screen that writes its result into the run, and offers it for download."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.html import note
from nelbo.studio.studio import Studio

if TYPE_CHECKING:
    from torch import Tensor

REMEMBERED = 3600
"""Seconds that the images of a visitor stay in memory."""
FORMATS = {"PNG, one picture": ".png", "NPZ, the exact levels": ".npz", "GIF, one after another": ".gif"}


class Savable(NamedTuple):
    """A result that can be saved.

    Attributes:
        out: the first unused path for a suffix.
        save: writes a file by the suffix of its path.
    """

    out: Callable[[str], Path]
    save: Callable[[Path], object]


def save_row(studio: Studio, name: str, formats: Mapping[str, str] = FORMATS) -> list[Any]:
    """The choice of a format, a button that saves as soon as there is a result, and one that downloads.

    Args:
        studio: the studio.
        name: the name of the screen.
        formats: the words of each format, and its suffix.

    Returns:
        The outputs for :func:`offered`.
    """
    made = gr.State(None, time_to_live=REMEMBERED)
    with gr.Row():
        kind = gr.Dropdown(list(formats), value=next(iter(formats)), label="Save as", filterable=False)
        save = gr.Button("Save", interactive=False, elem_id=f"{name}-save")
        file = gr.DownloadButton("Download", visible=False, elem_id=f"{name}-file")
    said = gr.HTML(elem_id=f"{name}-saved-note")
    studio.work(save.click, partial(saved, studio, formats), [made, kind], [said, file], once=True)
    return [made, save, file, said]


def offered(made: Savable | None) -> list[Any]:
    """Another result, or none: it can be saved, and is no file yet."""
    return [made, gr.Button(interactive=made is not None), gr.DownloadButton(visible=False), ""]


def saved(studio: Studio, formats: Mapping[str, str], made: Savable | None, kind: str) -> list[Any]:
    """Write a result; returns a note, and the button that downloads it.

    Raises:
        InputError: there is none, or the path is outside of the folders.
        OSError: it cannot be written.
    """
    if made is None:
        raise InputError("save", "there is no result yet; make one first")
    place = studio.folders.inside(made.out(formats[kind]))
    made.save(place)
    copy = studio.scratch / place.name
    shutil.copyfile(place, copy)
    return [
        note(f"Saved as {studio.short(place)}."),
        gr.DownloadButton(f"Download {place.name}", value=str(copy), visible=True),
    ]


def strip(rows: Sequence[Tensor], levels: int, run: Path, name: str) -> Savable:
    """Rows of images below each other; in a GIF one column after another.

    Args:
        rows: integer levels, uint8, each of shape (n, C, H, W).
        levels: L.
        run: the folder of the run.
        name: of the file, without its suffix.
    """
    import torch

    from nelbo.report.paths import unused
    from nelbo.report.pictures import grid, save_gif, save_images

    def save(out: Path) -> None:
        if out.suffix == ".gif":
            save_gif([grid(torch.stack(column), levels, columns=1) for column in zip(*rows, strict=True)], out)
        else:
            images = torch.cat(list(rows))
            save_images(images, levels, out, lambda: grid(images, levels, columns=len(rows[0])))

    return Savable(lambda suffix: unused(run / "samples", name, suffix), save)
