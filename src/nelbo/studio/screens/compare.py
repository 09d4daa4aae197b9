"""Compare runs: the tables and pictures of ``nelbo compare``."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.answers import timed
from nelbo.studio.html import framed, note
from nelbo.studio.studio import Screen, Studio
from nelbo.studio.words import duration, whole

SPLITS = ("test", "val", "train")


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        runs = gr.CheckboxGroup([], label="Runs to compare", elem_id="compare-runs")
        with gr.Column(scale=1, min_width=280):
            split = gr.Radio(list(SPLITS), value="test", label="Split")
            score = gr.Checkbox(True, label="Score runs that are not scored yet")
            limit = gr.Number(200, precision=0, label="Images to score")
    with gr.Row():
        go = gr.Button("Compare", variant="primary", min_width=80, elem_id="compare-go")
        stop = gr.Button("Stop", min_width=80, interactive=False)
    said = gr.HTML(note("Choose two runs or more."), elem_id="compare-note")
    page = gr.HTML(elem_id="compare-page")
    studio.answer([studio.run.change, studio.tab.select], partial(listed, studio), [runs], [said, runs])
    studio.work(go.click, partial(compared, studio), [runs, split, score, limit], [said, page], stop)


def listed(studio: Studio, chosen: list[str]) -> list[Any]:
    """The runs in the folders; those that are chosen stay chosen."""
    choices = studio.run_choices()
    paths = {path for _, path in choices}
    return [gr.skip(), gr.CheckboxGroup(choices=choices, value=[path for path in chosen if path in paths])]


def compared(studio: Studio, runs: list[str], split: str, score: bool, limit: float | None) -> list[Any]:
    """The page of ``nelbo compare``."""
    from nelbo.jobs.compare import compare

    if len(runs) < 2:
        raise InputError("run", "choose two runs or more to compare")
    opened = [studio.opened(path) for path in runs]
    out = Path(tempfile.mkdtemp(dir=studio.scratch))
    try:
        most = whole(limit, "n", 1) if score else None
        found, seconds = timed(lambda: compare(opened, out / "page", split=split, score=score, limit=most))
        page = (out / "page" / "index.html").read_text(encoding="utf-8")
    finally:
        shutil.rmtree(out, ignore_errors=True)
    line = f"{len(found.runs)} runs, {duration(seconds)}." + (f" They are {found.unlike}." if found.unlike else "")
    return [note(line, "" if found.unlike else "Lower bits/dim are better."), framed(page, "The comparison")]


SCREEN = Screen(80, "compare", "Compare", build)
