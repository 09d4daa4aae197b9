"""Odd ones: the strangest images of data with the bits of their pixels, and a threshold for a rate of false alarms."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from nelbo.studio.answers import timed
from nelbo.studio.html import facts, framed, note
from nelbo.studio.screens.data import asked_options, data_choice, size_and_fit
from nelbo.studio.studio import Screen, Studio
from nelbo.studio.words import bits, duration

SPLITS = ("all", "test", "val", "train")


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            spec = data_choice(studio, "odd-spec")
            split = gr.Radio(list(SPLITS), value="test", label="Split")
            worst = gr.Slider(1, 50, 5, step=1, label="Images to show", elem_id="odd-n")
            limit = gr.Number(200, precision=0, minimum=1, label="Images to score", info="The first ones.")
            rate = gr.Slider(
                0.01, 0.2, 0.05, step=0.01, label="False alarms", info="Share of normal images over the threshold."
            )
            with gr.Accordion("Images of other sizes", open=False):
                size, fit = size_and_fit()
            with gr.Row():
                go = gr.Button("Find the odd ones", variant="primary", min_width=80, elem_id="odd-go")
                stop = gr.Button("Stop", min_width=80)
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(note("Choose a folder on the left; the run above says what is normal."), elem_id="odd-note")
            about = gr.HTML(elem_id="odd-facts")
            page = gr.HTML(elem_id="odd-page")
    asked = [studio.run, spec, size, fit, split, worst, limit, rate]
    studio.work(go.click, partial(found, studio), asked, [said, about, page], stop)


def found(
    studio: Studio, run: str | None, spec: str, size: str, fit: str, split: str, worst: float, limit: float, rate: float
) -> list[Any]:
    """The report of ``nelbo score --worst``, which is also kept in the run."""
    from nelbo.jobs.score import score
    from nelbo.options import ScoreOptions

    opened = studio.opened(run)
    data = asked_options(studio, spec, size, fit)
    options = ScoreOptions(split=split, worst=int(worst), limit=int(limit or 1), false_alarms=rate)
    result, seconds = timed(lambda: score(opened, data=data, options=options))
    pairs = {"Images": f"{result.n:,}"}
    if result.bits_per_dim is not None:
        pairs["Mean of all"] = bits(result.bits_per_dim, result.stderr)
    if result.threshold is not None:
        pairs["Threshold"] = bits(result.threshold.bits_per_dim, None)
        pairs["Its false alarms"] = f"{result.threshold.low:.1%} to {result.threshold.high:.1%} (95 %)"
        pairs["Over it"] = f"{result.over:,} of {result.n:,}"
    if result.page is None:
        return [note(f"{opened.config.family} has no bound, so it cannot say what is odd."), "", ""]
    path = studio.folders.inside(result.page)
    line = f"{duration(seconds)}. The page is kept as {studio.short(path)}."
    return [note(line), facts(pairs), framed(path.read_text(encoding="utf-8"), "The strangest images")]


SCREEN = Screen(70, "odd", "Odd ones", build)
