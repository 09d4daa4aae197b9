"""Edit an image: fill a hole that is painted, vary it, enlarge it, with before and after."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.answers import sentence, timed
from nelbo.studio.html import figures, note, problem
from nelbo.studio.paint import NOTHING, marked, painter, painting
from nelbo.studio.saving import REMEMBERED, Savable, offered, save_row
from nelbo.studio.screens.data import FITS
from nelbo.studio.screens.sample import ANY
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import duration, whole

if TYPE_CHECKING:
    from torch import Tensor

    from nelbo.jobs.edit import Verb
    from nelbo.options import Fit
    from nelbo.studio.held import HeldRun

VERBS: dict[str, Verb] = {"Fill the hole": "inpaint", "Vary": "vary", "Enlarge": "upscale"}
PREVIEW_STEPS = 5
FORMATS = {"PNG, one picture": ".png", "NPZ, the exact levels": ".npz"}
FITTED = 9
"""The outputs of :func:`fitted`."""
FIT: dict[str, Fit] = {"crop": "crop", "pad": "pad", "resize": "resize"}


def build(studio: Studio) -> None:
    """The components, and their events."""
    image = gr.State(None, time_to_live=REMEMBERED)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            number = gr.Number(0, precision=0, label="Image of the test split", elem_id="edit-number")
            upload = gr.File(
                label="Or a file of your own", file_types=["image"], type="filepath", height=150, elem_id="edit-upload"
            )
            fit = gr.Radio(FITS, value="resize", label="Fit", info="How a file of another size is converted.")
            canvas = painter("edit-canvas")
            clear = gr.Button("Clear the hole")
        with gr.Column(scale=3, min_width=300):
            verb = gr.Radio(list(VERBS), value="Fill the hole", label="What to do", elem_id="edit-verb")
            strength = gr.Slider(
                0.05, 1, 0.5, step=0.05, label="Strength", info="1 keeps almost nothing.", visible=False
            )
            factor = gr.Slider(2, 8, 2, step=1, label="Factor", info="The image is reduced first.", visible=False)
            with gr.Row():
                n = gr.Slider(1, 16, 6, step=1, label="Draws")
                seed = gr.Number(0, precision=0, label="Seed")
            label = gr.Dropdown([ANY], value=ANY, label="Label", visible=False)
            with gr.Row():
                go = gr.Button("Draw", variant="primary", min_width=80, elem_id="edit-go")
                stop = gr.Button("Stop", min_width=80, interactive=False)
            said = gr.HTML(note("Choose an image, paint over a part of it, then “Draw”."), elem_id="edit-note")
            shown = result_place("edit-pictures")
            made = save_row(studio, "edit", FORMATS)
    place = [said, canvas, image, shown, *made]
    given = [studio.run, number, upload, fit]
    studio.answer([number.input, number.submit], partial(numbered, studio), given, [*place, upload])
    studio.answer([upload.upload, upload.clear, fit.input], partial(chosen, studio), given, place)
    studio.answer(studio.run.change, partial(fitted, studio, None), given, [*place, label])
    studio.answer(studio.tab.select, partial(fitted, studio), [image, *given], [*place, label])
    studio.answer(clear.click, cleared, [canvas], [said, canvas])
    studio.answer(verb.change, controls, [verb], [said, strength, factor])
    asked = [studio.run, image, canvas, verb, strength, factor, n, seed, label]
    studio.work([go.click, strength.release], partial(draw, studio, None), asked, [said, shown, *made], stop)
    studio.answer(strength.input, partial(draw, studio, PREVIEW_STEPS), asked, [said, shown, *made])


def chosen(studio: Studio, run: str | None, number: float | None, upload: str | None, fit: str) -> list[Any]:
    """The image to edit, on the canvas: the file if there is one; without an image the canvas is empty."""
    try:
        opened = studio.opened(run)
        if upload:
            found, said = file_image(opened, studio.uploaded(upload), fit)
        else:
            found, said = split_image(opened, whole(number, "images")), ""
    except (InputError, OSError) as error:
        return [problem(sentence(error)), NOTHING, None, "", *offered(None)]
    return [note(said) if said else "", painting(found, opened.config.images.levels), found, "", *offered(None)]


def numbered(studio: Studio, run: str | None, number: float | None, _: str | None, fit: str) -> list[Any]:
    """The image of this number, in the place of a file."""
    return [*chosen(studio, run, number, None, fit), None]


def fitted(studio: Studio, image: Tensor | None, run: str | None, *given: Any) -> list[Any]:
    """The canvas and the labels of another run; they stay if there is an image already."""
    if not run or image is not None:
        return [gr.skip()] * FITTED
    classes = studio.opened(run).model().classes
    return [*chosen(studio, run, *given), gr.Dropdown(choices=[ANY, *classes], value=ANY, visible=bool(classes))]


def split_image(run: HeldRun, number: int) -> Tensor:
    """An image of the test split, integer levels.

    Raises:
        InputError: there is no such image, or the data cannot be read.
    """
    images = run.dataset.split("test")
    if not 0 <= number < len(images):
        raise InputError("images", f"the test split has images 0 to {len(images) - 1:,}; choose one of them")
    return images[number]


def file_image(run: HeldRun, path: Path, fit: str) -> tuple[Tensor, str]:
    """An uploaded file as an image of the run, decoded as nelbo decodes every stranger's file; and what was lost.

    Raises:
        InputError: it cannot be used.
    """
    from nelbo.jobs.edit_images import converted_levels

    images = run.config.images
    try:
        found, lost = converted_levels(path, images.shape, images.levels, FIT.get(fit))
    except InputError as error:
        raise InputError(path.name, error.problem) from None
    return found, f"{path.name} is converted: {lost}." if lost else ""


def cleared(value: Any) -> list[Any]:
    """The canvas with nothing marked."""
    if not isinstance(value, dict):
        return [gr.skip()] * 2
    return ["", {**value, "marked": "0" * len(value.get("marked", ""))}]


def controls(verb: str) -> list[Any]:
    """The controls that a verb uses."""
    said = {"Vary": "The image is noised, and drawn again.", "Enlarge": "The image is reduced, and enlarged again."}
    return [
        note(said.get(verb, "Paint over what is to be drawn anew.")),
        gr.Slider(visible=verb == "Vary"),
        gr.Slider(visible=verb == "Enlarge"),
    ]


def draw(
    studio: Studio,
    steps: int | None,
    run: str | None,
    image: Tensor | None,
    canvas: Any,
    verb: str,
    strength: float,
    factor: float,
    n: float,
    seed: float | None,
    label: str | None,
) -> list[Any]:
    """The image before, and the draws after."""
    from nelbo.jobs.edit import edit
    from nelbo.jobs.edit_images import reduced
    from nelbo.jobs.edit_output import save, usual_out

    opened = studio.opened(run)
    images = opened.config.images
    if image is None or tuple(image.shape) != images.shape:
        raise InputError("image", "there is none of this run; choose a number, or a file that can be read")
    word, seed = VERBS[verb], whole(seed, "seed")
    settings: dict[str, Any] = {"seed": seed, **({} if label in (None, ANY) else {"label": label})}
    settings |= {"steps": steps} if steps is not None else {}
    mask, given = None, image
    if word == "inpaint":
        mask = marked(canvas, images.shape)
    elif word == "vary":
        settings["strength"] = strength
    else:
        given = reduced(image, images.levels, int(factor))
    done, seconds = timed(lambda: edit(opened, word, given, mask=mask, n=int(n), **settings))
    before = figures([image, done.given[0]], done.levels, ["before", "what the model sees"], "large")
    after = figures(done.images, done.levels, [f"draw {i}, seed {seed}" for i in range(len(done.images))])
    preview = "Preview: " if steps is not None else ""
    line = f"{preview}{len(done.images)} draws, {duration(seconds)}, {done.evaluations:,} evaluations for each."
    return [
        note(line, how=f"{done.how}."),
        f"<h2>Before</h2>{before}<h2>After</h2>{after}",
        *offered(Savable(partial(usual_out, opened, word, seed, opened.step), partial(save, done))),
    ]


SCREEN = Screen(60, "edit", "Edit", build)
