"""Draw images: seed, number, label, guidance, steps, sampler, temperature; with a preview while they move."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.studio.html import figures, note
from nelbo.studio.saving import Savable, offered, save_row
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import duration, whole

if TYPE_CHECKING:
    from nelbo.jobs.drawn import Drawn
    from nelbo.options import SampleOptions

PREVIEW_STEPS, PREVIEWED = 4, 8
ANY = "any"
AUTO = "the run's default"
SAMPLERS = (AUTO, "unipc", "dpm++", "heun", "ddim", "ancestral")
FORMATS = {"PNG, one picture": ".png", "NPZ, the exact levels": ".npz", "GIF, the denoising": ".gif"}


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            n = gr.Slider(1, 64, 16, step=1, label="Images", elem_id="sample-n")
            seed = gr.Number(0, precision=0, label="Seed", info="Image i of a seed is always the same image.")
            label = gr.Dropdown([ANY], value=ANY, label="Label", visible=False, elem_id="sample-label")
            guidance = gr.Slider(
                0, 8, 2, step=0.1, label="Guidance", info="1 is none.", visible=False, elem_id="sample-guidance"
            )
            steps = gr.Slider(1, 100, 20, step=1, label="Steps", visible=False, elem_id="sample-steps")
            sampler = gr.Dropdown(list(SAMPLERS), value=AUTO, label="Sampler", visible=False)
            temperature = gr.Slider(0, 1.5, 1, step=0.05, label="Temperature", info="Of the latents.", visible=False)
            with gr.Row():
                go = gr.Button("Draw", variant="primary", min_width=80, elem_id="sample-go")
                stop = gr.Button("Stop", min_width=80, interactive=False, elem_id="sample-stop")
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(elem_id="sample-note")
            pictures = result_place("sample-pictures")
            made = save_row(studio, "sample", FORMATS)
    settings = [studio.run, n, seed, label, guidance, steps, sampler, temperature]
    fitted = [said, label, guidance, steps, sampler, temperature]
    studio.answer(studio.run.change, partial(fitting, studio), [studio.run, label], fitted)
    studio.answer(studio.tab.select, partial(fitting, studio), [studio.run, label, made[0]], fitted)
    moved = [each.input for each in (guidance, steps, temperature)]
    studio.answer(moved, partial(preview, studio), settings, [said, pictures])
    released = [each.release for each in (n, guidance, steps, temperature)]
    chosen = [label.input, sampler.input, seed.submit]
    studio.work([go.click, *released, *chosen], partial(draw, studio), settings, [said, pictures, *made], stop)


def fitting(studio: Studio, run: str | None, label: str, made: object = None) -> list[Any]:
    """The controls that the family of a run uses."""
    from nelbo.models._distilled import Distilled
    from nelbo.models.diffusion import Diffusion

    if not run:
        return [note("There is no run yet; the screen Train makes one."), *[gr.skip()] * 5]
    model = studio.opened(run).model()
    over_steps, latent = isinstance(model, Diffusion), not isinstance(model, Diffusion | Distilled)
    return [
        gr.skip() if made else "",
        gr.Dropdown(
            choices=[ANY, *model.classes],
            value=label if label in model.classes else ANY,
            visible=bool(model.classes),
        ),
        gr.Slider(visible=over_steps and bool(model.classes)),
        gr.Slider(visible=over_steps, maximum=most_steps(model)),
        gr.Dropdown(visible=over_steps),
        gr.Slider(visible=latent),
    ]


def most_steps(model: Any) -> int:
    """The largest number of steps to choose."""
    return min(100, len(model.timeline.chain()) - 1) if hasattr(model, "timeline") else 100


def options_of(
    model: Any, seed: float | None, label: str, guidance: float, steps: float, sampler: str, temperature: float
) -> SampleOptions:
    """The options of sampling that the model uses.

    Raises:
        InputError: a value is out of its range.
    """
    from nelbo.check import checked
    from nelbo.models._distilled import Distilled
    from nelbo.models.diffusion import Diffusion
    from nelbo.options import SampleOptions

    given: dict[str, Any] = {"seed": whole(seed, "seed")}
    if model.classes and label not in (None, ANY):
        given["label"] = label
    if isinstance(model, Diffusion):
        given |= {"steps": int(steps), **({} if sampler == AUTO else {"sampler": sampler})}
        given |= {"guidance": guidance} if "label" in given else {}
    elif not isinstance(model, Distilled) and temperature != 1:
        given["temperature"] = temperature
    return checked(SampleOptions, given)


def draw(studio: Studio, run: str | None, n: float, *values: Any) -> list[Any]:
    """Images in full quality."""
    from nelbo.jobs.sample import drawn, usual_out

    opened = studio.opened(run)
    options = options_of(opened.model(), *values)
    found, step = drawn(opened, int(n), options, keep_frames=True), opened.step
    n, label = len(found.images), options.label or ""
    made = Savable(lambda suffix: usual_out(opened, n, options.seed, suffix, step, label), found.save)
    return [about(found, step), shown(found, options.seed), *offered(made)]


def preview(studio: Studio, run: str | None, n: float, *values: Any) -> list[Any]:
    """A few images in few steps."""
    from nelbo.jobs.sample import drawn

    opened = studio.opened(run)
    model = opened.model()
    options = options_of(model, *values)
    if options.steps is not None:
        options = options.model_copy(update={"steps": min(PREVIEW_STEPS, options.steps), "sampler": None})
    found = drawn(opened, min(int(n), PREVIEWED), options)
    return [about(found, opened.step, "Preview: "), shown(found, options.seed)]


def about(found: Drawn, step: int, before: str = "") -> str:
    """How the images were made."""
    n, each = len(found.images), found.evaluations
    work = f"{duration(found.seconds)}, {each:g} evaluation{'s' * (each != 1)} of the network for each image"
    line = f"{before}{n} image{'s' * (n > 1)} of {found.family} at step {step:,}: {work}."
    known = re.sub(r" \('nelbo [^']*'\)", "", found.known)
    return note(line, f"Known: {known}.", f"{found.how}.")


def shown(found: Drawn, seed: int) -> str:
    """The images, each with its seed, its index and its class."""
    names = [f"seed {seed}, {i}" for i in range(len(found.images))]
    names = [f"{name}: {label}" for name, label in zip(names, found.labels, strict=True)] if found.labels else names
    return figures(found.images, found.levels, names)


SCREEN = Screen(30, "sample", "Sample", build)
