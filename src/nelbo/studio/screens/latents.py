"""Latents: walks from seed to seed, lines between two images, and what each part of a latent does."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.answers import timed
from nelbo.studio.html import figures, note, sheet
from nelbo.studio.saving import offered, save_row, strip
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import duration, whole

QUICK = 5
"""Steps of the flow while a slider moves."""
FULL = 25


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            first = gr.Slider(0, 100, 0, step=1, label="From seed", elem_id="latents-from")
            last = gr.Slider(0, 100, 1, step=1, label="To seed", elem_id="latents-to")
            count = gr.Slider(3, 16, 8, step=1, label="Images")
            walk = gr.Button("Walk", variant="primary", min_width=80, elem_id="latents-walk")
            a = gr.Number(0, precision=0, label="First image", info="Of the test split.")
            b = gr.Number(1, precision=0, label="Second image")
            line = gr.Button("Line between the two images", elem_id="latents-line")
            parts = gr.Button("What the latents do", elem_id="latents-views")
            stop = gr.Button("Stop", min_width=80, interactive=False)
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(note("Choose two seeds, then “Walk”."), elem_id="latents-note")
            shown = result_place("latents-pictures")
            made = save_row(studio, "latents")
    ends = [studio.run, first, last, count]
    found = [said, shown, *made]
    studio.answer([first.input, last.input], partial(walked, studio, QUICK), ends, found)
    studio.work([walk.click, first.release, last.release], partial(walked, studio, FULL), ends, found, stop)
    studio.work(line.click, partial(lined, studio), [studio.run, a, b, count], found, stop)
    studio.work(parts.click, partial(viewed, studio), [studio.run], found, stop)
    studio.answer([studio.run.change, studio.tab.select], partial(fitting, studio), [studio.run], [said, parts])


def fitting(studio: Studio, run: str | None) -> list[Any]:
    """Whether the family has pictures of its own."""
    from nelbo.models.inspector import Inspector

    has = bool(run) and type(studio.opened(run).model().inspector).views is not Inspector.views
    return [gr.skip(), gr.Button(visible=has)]


def walked(studio: Studio, steps: int, run: str | None, first: float, last: float, count: float) -> list[Any]:
    """Images from one seed to another."""
    from nelbo.jobs.walk import walk

    opened = studio.opened(run)
    seeds = int(first), int(last)
    images, seconds = timed(lambda: walk(opened, seeds, int(count), steps=steps))
    n = len(images)
    names = [f"{k / (n - 1):.0%} of the way" for k in range(n)]
    names[0], names[-1] = f"seed {seeds[0]}", f"seed {seeds[1]}"
    said = f"{'Preview: from' if steps == QUICK else 'From'} seed {seeds[0]} to seed {seeds[1]}, {duration(seconds)}."
    levels = opened.config.images.levels
    made = strip([images], levels, opened.path, f"walk-step-{opened.step:08d}-seed{seeds[0]}-to-seed{seeds[1]}")
    return [note(said), figures(images, levels, names), *offered(made)]


def lined(studio: Studio, run: str | None, a: float | None, b: float | None, count: float) -> list[Any]:
    """Images between two images of the test split."""
    import torch

    from nelbo.jobs.edit import edit

    opened = studio.opened(run)
    images = opened.dataset.split("test")
    rows = whole(a, "images"), whole(b, "images")
    if max(rows) >= len(images):
        raise InputError("images", f"the test split has images 0 to {len(images) - 1:,}; choose two of them")
    done, seconds = timed(lambda: edit(opened, "interpolate", *(images[row] for row in rows), frames=int(count)))
    shown = [done.given[0], *done.images, done.given[1]]
    names = [f"image {rows[0]}", *[f"{k / (int(count) - 1):.0%}" for k in range(int(count))], f"image {rows[1]}"]
    file = f"line-step-{opened.step:08d}-images{rows[0]}-to-{rows[1]}"
    made = strip([torch.stack(shown)], done.levels, opened.path, file)
    said = f"{done.how[:1].upper()}{done.how[1:]}, {duration(seconds)}."
    return [note(said), figures(shown, done.levels, names), *offered(made)]


def viewed(studio: Studio, run: str | None) -> list[Any]:
    """The family's own pictures, such as the levels of an hvae."""
    from nelbo.jobs.walk import views
    from nelbo.report.pictures import grid

    opened = studio.opened(run)
    found = views(opened)
    if not found:
        return [note(f"A {opened.config.family} has no such pictures; its walks show its latents."), "", *offered(None)]
    levels = opened.config.images.levels
    pictures = [sheet(grid(images, levels, columns), title) for title, images, columns in found]
    return [
        note(f"{opened.config.family} at step {opened.step:,}, on images of the test split."),
        "".join(pictures),
        *offered(None),
    ]


SCREEN = Screen(50, "latents", "Latents", build)
