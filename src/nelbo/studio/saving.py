"""The row of a screen that writes its result into the run, and offers it for download."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from nelbo.studio.html import note
from nelbo.studio.studio import Studio

REMEMBERED = 3600
"""Seconds that the images of a visitor stay in memory."""


def save_row(formats: Mapping[str, str], name: str) -> tuple[gr.Dropdown, gr.Button, gr.DownloadButton]:
    """The choice of a format, the button that saves, and the one that downloads.

    Args:
        formats: the words of each format, and its suffix.
        name: the name of the screen.
    """
    with gr.Row():
        kind = gr.Dropdown(list(formats), value=next(iter(formats)), label="Save as", filterable=False)
        save = gr.Button("Save", elem_id=f"{name}-save")
        file = gr.DownloadButton("Download", visible=False, elem_id=f"{name}-file")
    return kind, save, file


def saved(studio: Studio, out: Path, save: Callable[[Path], object]) -> list[Any]:
    """Write a result; returns a note, and the button that downloads it.

    Raises:
        InputError: the path is outside of the folders.
        OSError: it cannot be written.
    """
    place = studio.folders.inside(out)
    save(place)
    copy = studio.scratch / place.name
    shutil.copyfile(place, copy)
    return [
        note(f"Saved as {studio.short(place)}."),
        gr.DownloadButton(f"Download {place.name}", value=str(copy), visible=True),
    ]
