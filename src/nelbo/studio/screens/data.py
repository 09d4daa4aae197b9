"""Browse data: images by class and split, sizes, copies over splits, and what would be refused with its mend."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.studio.html import facts, figures, folded, listed, note, table
from nelbo.studio.studio import Screen, Studio

if TYPE_CHECKING:
    from nelbo.data import Dataset

EVERY = "all classes"
SHOWN = 40
SPLITS = ("train", "val", "test", "all")
FITS = ("not at all", "crop", "pad", "resize")
COPIES = 8
"""Groups of copies that are shown."""


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            spec = data_choice(studio, "data-spec")
            size, fit = size_and_fit()
            skip = gr.Checkbox(False, label="Skip unreadable files")
            look = gr.Button("Look", variant="primary", min_width=80, elem_id="data-look")
            split = gr.Radio(list(SPLITS), value="train", label="Split")
            label = gr.Dropdown([EVERY], value=EVERY, label="Class", elem_id="data-class")
            start = gr.Slider(0, 1, 0, step=SHOWN, label="From image", elem_id="data-start")
            check = gr.Button("Find unreadable files", elem_id="data-check")
            stop = gr.Button("Stop", min_width=80, interactive=False, elem_id="data-stop")
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(note("Choose “Data”, then “Look”."), elem_id="data-note")
            about = gr.HTML(elem_id="data-facts")
            pictures = gr.HTML(elem_id="data-pictures")
            copies = gr.HTML(elem_id="data-copies")
    asked = [spec, size, fit, skip]
    place = [split, label, start]
    studio.work(look.click, partial(looked, studio), asked, [said, about, pictures, copies, label, start], stop)
    moved = [split.input, label.input, start.release]
    studio.work(moved, partial(page, studio), [*asked, *place], [said, pictures, start])
    studio.work(check.click, partial(unreadable, studio), [spec], [said, copies], stop)


def data_choice(studio: Studio, name: str) -> gr.Dropdown:
    """A list of the data on this machine, which also takes the path of a folder."""
    found = gr.Dropdown(
        ["digits"],
        value="digits",
        label="Data",
        info=f"A name, or a folder of images in {studio.places()}. “nelbo studio runs photos” starts it with others.",
        allow_custom_value=True,
        elem_id=name,
    )
    studio.data.append(found)
    return found


def size_and_fit() -> tuple[gr.Textbox, gr.Radio]:
    """The controls for images of different sizes."""
    size = gr.Textbox("", label="Size", placeholder="as they are, or 64x48", info="Height x width in pixels.")
    return size, gr.Radio(list(FITS), value=FITS[0], label="Fit", info="How other sizes are converted.")


def asked_options(studio: Studio, spec: str, size: str, fit: str, skip: bool = False) -> Any:
    """Options for the data."""
    return studio.data_options(spec, size=size.strip(), fit=None if fit == FITS[0] else fit, skip_bad=skip)


def looked(studio: Studio, spec: str, size: str, fit: str, skip: bool) -> list[Any]:
    """A data set from the start."""
    from nelbo.jobs.browse import class_counts

    dataset = studio.dataset(asked_options(studio, spec, size, fit, skip), again=True)
    counts = class_counts(dataset)
    pictures, slider, line = shown(dataset, "train", EVERY, 0)
    classes = gr.Dropdown(choices=[EVERY, *counts], value=EVERY, interactive=bool(counts))
    return [note(line), described(dataset, counts), pictures, copies_of(dataset), classes, slider]


def page(studio: Studio, spec: str, size: str, fit: str, skip: bool, split: str, label: str, start: float) -> list[Any]:
    """Other images of the same data."""
    dataset = studio.dataset(asked_options(studio, spec, size, fit, skip))
    pictures, slider, line = shown(dataset, split, label, int(start))
    return [note(line), pictures, slider]


def shown(dataset: Dataset, split: str, label: str, start: int) -> tuple[str, Any, str]:
    """The images from number ``start`` on, the slider, and a line."""
    from nelbo.jobs.browse import page_of

    named = None if label == EVERY else label
    total = page_of(dataset, split, named, 0, 0).total
    last = max(0, (total - 1) // SHOWN * SHOWN)
    found = page_of(dataset, split, named, min(start, last), SHOWN)
    stop = min(start, last) + len(found.images)
    line = f"Images {min(start, last):,} to {stop - 1:,} of {total:,} in {split}." if total else f"None in {split}."
    slider = gr.Slider(maximum=max(last, 1), value=min(start, last), interactive=last > 0)
    return figures(found.images, dataset.levels, found.names), slider, line


def described(dataset: Dataset, counts: Mapping[str, Any]) -> str:
    """Sizes, splits, classes and notes."""
    channels, height, width = dataset.shape
    splits = ", ".join(f"{name} {stop - start:,}" for name, (start, stop) in dataset.bounds.items())
    pairs = {
        "Images": f"{len(dataset.images):,}",
        "Size": f"{height} × {width} pixels, {channels} channel{'s' * (channels > 1)}",
        "Levels of a pixel": str(dataset.levels),
        "Splits": splits,
    }
    rows = [(name, *(f"{each:,}" for each in found)) for name, found in counts.items()]
    title = "Images of each class"
    classes = folded(title, table(("class", *dataset.bounds), rows, title)) if rows else ""
    return facts(pairs) + listed(dataset.notes) + classes


def copies_of(dataset: Dataset) -> str:
    """Equal images in more than one split."""
    from nelbo.jobs.browse import copies_over_splits

    groups = copies_over_splits(dataset)
    if not groups:
        return note("No image is in more than one split.")
    count = f"{len(groups):,} image{'s are' if len(groups) > 1 else ' is'} in more than one split"
    why = f"{count}, which makes bits/dim on val and test too small. Remove the copies from train."
    images = [dataset.split(group[0][0])[group[0][1]] for group in groups[:COPIES]]
    names = [" and ".join(f"{split} {row}" for split, row in group) for group in groups[:COPIES]]
    return note(why) + figures(images, dataset.levels, names)


def unreadable(studio: Studio, spec: str) -> list[Any]:
    """The files that cannot be read, each with the reason and the mend."""
    from nelbo.jobs.browse import refused_files

    found = refused_files(studio.data_options(spec))
    if not found:
        return [note("Every file can be read."), ""]
    rows = [(each.name, each.why) for each in found]
    count = "1 file cannot be read. Mend it" if len(found) == 1 else f"{len(found):,} files cannot be read. Mend them"
    line = f"{count}, or choose “Skip unreadable files”."
    return [note(line), table(("file", "why"), rows, "Files that cannot be read")]


SCREEN = Screen(10, "data", "Data", build)
