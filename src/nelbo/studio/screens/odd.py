"""Odd ones: the strangest images of data with the bits of their pixels, and a threshold for a rate of false alarms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.answers import timed
from nelbo.studio.html import facts, framed, note
from nelbo.studio.screens.data import FITS, data_choice
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import bits, duration, labelled, whole

if TYPE_CHECKING:
    from nelbo.config.files import ImagesConfig, RunConfig
    from nelbo.options import DataOptions

ALL = "all"
SPLITS = (ALL, "test", "val", "train")


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            spec = data_choice(studio, "odd-spec")
            split = gr.Radio(list(SPLITS), value="test", label="Split", info="A folder is searched whole.")
            worst = gr.Slider(1, 50, 5, step=1, label="Images to show", elem_id="odd-n")
            limit = gr.Number(200, precision=0, label="Images to score", info="The first ones.")
            rate = gr.Slider(
                0.01, 0.2, 0.05, step=0.01, label="False alarms", info="Share of normal images over the threshold."
            )
            fit = gr.Radio(FITS[1:], value="resize", label="Fit", info="How images of another size are converted.")
            with gr.Row():
                go = gr.Button("Find the odd ones", variant="primary", min_width=80, elem_id="odd-go")
                stop = gr.Button("Stop", min_width=80, interactive=False)
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(
                note("Choose “Data”. What is normal is what the run at the top was trained on."),
                elem_id="odd-note",
            )
            about = result_place("odd-facts")
            page = result_place("odd-page")
    studio.answer(spec.change, partial(usual_split, studio), [spec], [said, split])
    asked = [studio.run, spec, fit, split, worst, limit, rate]
    studio.work(go.click, partial(found, studio), asked, [said, about, page], stop)


def usual_split(studio: Studio, spec: str | None) -> list[Any]:
    """A folder is searched whole; of a name, the test split. Nothing is said of a path outside of the folders."""
    try:
        whole_folder = bool(spec) and studio.folders.inside(str(spec)).is_dir()
    except InputError:
        whole_folder = False
    return [gr.skip(), ALL if whole_folder else "test"]


def found(
    studio: Studio, run: str | None, spec: str, fit: str, split: str, worst: float, limit: float, rate: float
) -> list[Any]:
    """The report of ``nelbo score --worst``, which is also kept in the run."""
    from nelbo.jobs.score import score
    from nelbo.jobs.threshold import least_rate
    from nelbo.options import ScoreOptions

    opened = studio.opened(run)
    data = as_the_run(studio.data_options(spec), opened.config, fit)
    least = least_rate(opened)
    options = ScoreOptions(split=split, worst=int(worst), limit=whole(limit, "n", 1), false_alarms=max(rate, least))
    changed = converted(studio, data, opened.config.images)
    result, seconds = timed(lambda: score(opened, data=data, options=options))
    pairs = {"Images": f"{result.n:,}"}
    if rate < least:
        pairs["False alarms"] = f"{least:.2g} instead of {rate:g}, for which the run's val split has too few images"
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
    return [note(line, changed), facts(pairs), framed(path.read_text(encoding="utf-8"), "The strangest images")]


def converted(studio: Studio, data: DataOptions, images: ImagesConfig) -> str:
    """What the conversion changes, as a sentence, or "".

    Raises:
        InputError: the images have levels that the run does not know.
    """
    if "levels" not in data.model_fields_set:
        return ""
    _, height, width = images.shape
    try:
        dataset = studio.dataset(data, again=True)
    except InputError as error:
        if error.where != "levels":
            raise
        knows = f"the run knows images of {height}×{width} pixels in {images.levels} shades ({images.name})"
        fix = "choose a run that was trained on such images, or train one"
        raise InputError("data", f"{knows}, and these images have more shades; {fix}") from None
    lines = [line for line in dataset.notes if line.startswith(("channels converted", "sizes converted"))]
    return "".join(f"{line[:1].upper()}{labelled(line[1:])}. " for line in lines).strip()


def as_the_run(data: DataOptions, config: RunConfig, fit: str) -> DataOptions:
    """Options that convert other data to the size, channels and levels of a run's images; the run's own stay."""
    from nelbo.jobs.settings import place_of

    if place_of(data.data) == place_of(config.data.data):
        return data
    channels, height, width = config.images.shape
    alike = {"size": f"{height}x{width}", "fit": fit, "channels": channels, "levels": config.images.levels}
    return data.model_copy(update=alike)


SCREEN = Screen(70, "odd", "Odd ones", build)
