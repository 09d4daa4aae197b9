"""Denoise: a slider over t shows z_t, x̂_0 and the bits spent by t, beside the forward process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.html import curve, facts, figures, note
from nelbo.studio.saving import offered, save_row, strip
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import bits, signed, whole

if TYPE_CHECKING:
    from nelbo.jobs.denoise import Spent, Way

IMAGE, SEED = "an image of the test split", "an image that the model draws"
KEPT = 8
"""Images in memory."""
Ways = dict[tuple[Any, ...], "tuple[Way, Spent]"]


def build(studio: Studio) -> None:
    """The components, and their events."""
    ways: Ways = {}
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            source = gr.Radio([IMAGE, SEED], value=IMAGE, label="Image")
            number = gr.Number(0, precision=0, label="Number", info="Of the image, or the seed.")
            with gr.Row():
                go = gr.Button("Show", variant="primary", min_width=80, elem_id="denoise-go")
                stop = gr.Button("Stop", min_width=80, interactive=False)
        with gr.Column(scale=3, min_width=300):
            t = gr.Slider(0, 1, 0.5, step=0.01, label="t", info="1 is noise alone, 0 the image.", elem_id="denoise-t")
            said = gr.HTML(note("Choose an image, then “Show”."), elem_id="denoise-note")
            now = result_place("denoise-now")
            way = result_place("denoise-way")
            made = save_row(studio, "denoise")
    asked = [studio.run, source, number]
    studio.work(
        [go.click, source.input, number.submit], partial(show, studio, ways), [*asked, t], [said, now, way, *made], stop
    )
    studio.answer(t.input, partial(move, studio, ways), [*asked, t], [said, now])


def found(studio: Studio, ways: Ways, run: str | None, source: str, number: float | None) -> tuple[Way, Spent]:
    """The way of the image, from memory if it is there.

    Raises:
        InputError: the family has no t, or there is no such image.
    """
    from nelbo.jobs.denoise import require_diffusion, spent_bits, way_from, way_of

    opened, k = studio.opened(run), whole(number, "number")
    key = (opened.path, opened.checkpoint, source, k)
    if key not in ways:
        model = require_diffusion(opened)
        if source == SEED:
            way = way_from(model, k)
        else:
            images = opened.dataset.split("test")
            if not k < len(images):
                raise InputError("number", f"the test split has images 0 to {len(images) - 1:,}; choose one of them")
            way = way_of(model, images[k], 0)
        ways[key] = way, spent_bits(model, way.image, 0)
        while len(ways) > KEPT:
            ways.pop(next(iter(ways)))
    return ways[key]


def show(studio: Studio, ways: Ways, run: str | None, source: str, number: float | None, t: float) -> list[Any]:
    """The image, its forward process, and its state at t."""
    import torch

    way, spent = found(studio, ways, run, source, number)
    levels, shown = way.model.levels, way.strip()
    z, x_0 = torch.stack([each.z for each in shown]), torch.stack([each.x_0 for each in shown])
    pictures = figures(z, levels, [f"z at t = {each.t:.2f}" for each in shown], "strip")
    guesses = figures(x_0, levels, [f"x̂₀ at t = {each.t:.2f}" for each in shown], "strip")
    name = "The drawing" if way.frames else "The forward process"
    head = f"<h2>{name}, and the model's guess at each t</h2>"
    said = (
        f"The whole bound of this image is {bits(*spent.total)}, of which its levels take {spent.reconstruction:.3f}."
    )
    opened = studio.opened(run)
    file = f"denoise-step-{opened.step:08d}-{'seed' if way.frames else 'image'}{whole(number, 'number')}"
    made = strip([z, x_0], levels, opened.path, file)
    return [note(said), state(way, spent, t), head + pictures + guesses, *offered(made)]


def move(studio: Studio, ways: Ways, run: str | None, source: str, number: float | None, t: float) -> list[Any]:
    """The state at another t."""
    way, spent = found(studio, ways, run, source, number)
    return [gr.skip(), state(way, spent, t)]


def state(way: Way, spent: Spent, t: float) -> str:
    """z_t, x̂_0 and the bits at one t."""
    shown = way.drawn_at(t) if way.frames and t > 0 else way.at(t)
    step = "state of the drawing" if way.frames and t > 0 else "image with noise"
    names = [f"z, the {step}", "x̂₀, the model's guess", "the image"]
    pictures = figures([shown.z, shown.x_0, way.image], way.model.levels, names, "large")
    pairs = {
        "t": f"{shown.t:.2f}",
        "γ = −ln SNR": signed(shown.gamma),
        "Spent by t": bits(*spent.at(shown.t)),
    }
    points = sorted((float(at), float(value)) for at, value in zip(spent.t, spent.bits, strict=True))
    line = curve(points, "bits/dim spent on the way from noise (t = 1) to the image (t = 0)", "t", shown.t)
    return facts(pairs) + pictures + line


SCREEN = Screen(40, "denoise", "Denoise", build)
