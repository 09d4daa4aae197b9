"""Compress: images into a file without loss, its bytes beside other formats, and the same images back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.answers import timed
from nelbo.studio.html import facts, figures, note, table
from nelbo.studio.screens.data import data_choice
from nelbo.studio.studio import Screen, Studio, result_place
from nelbo.studio.words import duration, whole

if TYPE_CHECKING:
    from nelbo.codec.coder import Images
    from nelbo.jobs.decompress import Decompressed
    from nelbo.report.compressed import Compression

SPLITS = ("test", "val", "train", "all")
SHOWN = 40
SUFFIX = ".nelbo"


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            spec = data_choice(studio, "compress-spec")
            split = gr.Radio(list(SPLITS), value="test", label="Split", info="A folder is compressed whole.")
            limit = gr.Number(
                256,
                precision=0,
                label="Images to compress",
                info="The first ones of a split.",
                elem_id="compress-n",
            )
            upload = gr.File(
                label="Or images of your own", file_types=["image"], file_count="multiple", type="filepath", height=150
            )
            steps = gr.Slider(2, 96, 24, step=1, label="Steps", info="More: a smaller file, slower.", visible=False)
            with gr.Row():
                go = gr.Button("Compress", variant="primary", min_width=80, elem_id="compress-go")
                stop = gr.Button("Stop", min_width=80, interactive=False)
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(note("Choose images; the run at the top codes them."), elem_id="compress-note")
            about = result_place("compress-facts")
            file = gr.DownloadButton("Download the file", visible=False, elem_id="compress-file")
            gr.HTML("<h2>And back</h2>")
            given = gr.File(label="A file of this run", type="filepath", height=150, elem_id="compress-given")
            back = gr.Button("Decompress", elem_id="compress-back")
            told = gr.HTML(elem_id="compress-back-note")
            returned = result_place("compress-returned")
            images = gr.DownloadButton("Download the images", visible=False, elem_id="compress-images")
    made = gr.State(None)
    studio.answer(studio.run.change, partial(fitting, studio, ""), [studio.run], [said, steps])
    studio.answer(studio.tab.select, partial(fitting, studio, gr.skip()), [studio.run], [said, steps])
    asked = [studio.run, spec, split, limit, upload, steps]
    studio.work(go.click, partial(compressed, studio), asked, [said, about, made, file], stop, once=True)
    studio.work(
        back.click, partial(decompressed, studio), [studio.run, given, made], [told, returned, images], stop, once=True
    )


def fitting(studio: Studio, said: Any, run: str | None) -> list[Any]:
    """The controls that the family of a run uses, beside a note."""
    from nelbo.models.diffusion import Diffusion

    if not run:
        return [note("There is no run yet; the screen Train makes one."), gr.skip()]
    return [said, gr.Slider(visible=isinstance(studio.opened(run).model(), Diffusion))]


def compressed(
    studio: Studio,
    run: str | None,
    spec: str,
    split: str,
    limit: float | None,
    upload: Sequence[str] | None,
    steps: float,
) -> list[Any]:
    """Write a file of the images into the run, and offer it for download."""
    from nelbo.check import checked
    from nelbo.jobs.compress import compress, given_inputs
    from nelbo.models.diffusion import Diffusion
    from nelbo.options import CompressOptions
    from nelbo.report.paths import unused

    opened = studio.opened(run)
    settings: dict[str, Any] = {"steps": int(steps)} if isinstance(opened.model(), Diffusion) else {}
    given: Any = [studio.uploaded(path) for path in upload] if upload else studio.data_options(spec).data
    if not upload and not Path(given).is_dir():
        settings |= {"split": split, "limit": whole(limit, "n", 1)}
    options = checked(CompressOptions, settings)
    inputs = given_inputs(opened, given, None, options)
    out = studio.folders.inside(unused(opened.path / "compressed", "images", SUFFIX))
    out.parent.mkdir(exist_ok=True)
    result, seconds = timed(lambda: compress(opened, inputs, out, options=options))
    count = f"{result.images:,} image{'s' * (result.images != 1)}"
    line = f"{count} in {result.bytes:,} bytes, {duration(seconds)}. Saved as {studio.short(out)}."
    proof = "Every image was decoded again and compared before it was written."
    copy = studio.scratch / out.name
    shutil.copyfile(out, copy)
    return [
        note(line, proof),
        described(result) + beside(inputs.images, opened.config.images.levels, result),
        str(out),
        gr.DownloadButton(value=str(copy), visible=True),
    ]


def described(result: Compression) -> str:
    """What the file takes."""
    from nelbo.report.compressed import NO_IMAGES

    others = sum(result.parts.get(name, 0) for name in NO_IMAGES)
    pairs = {"File": f"{result.bytes:,} bytes", "Of which header and index": f"{others:,} bytes"}
    if result.bits_per_dim is not None:
        pairs["Whole file"] = f"{result.bits_per_dim:.3f} bits/dim"
    if result.model_bits_per_dim is not None:
        pairs["What the model codes"] = f"{result.model_bits_per_dim:.3f} bits/dim"
    if result.weights_bytes is not None:
        n = result.pays_after
        pays = "xz alone is smaller, for any number of images" if n is None else f"they pay after {n:,} images"
        pairs["The weights, which decoding needs"] = f"{result.weights_bytes:,} bytes; {pays}"
    return facts(pairs)


def beside(images: Images, levels: int, result: Compression) -> str:
    """The bytes of the same images by other formats, as a table."""
    from nelbo.report.other_codecs import other_sizes

    rows = [("nelbo", result.bytes)]
    if result.xz_bytes:
        rows.append(("xz of all pixels", result.xz_bytes))
    if len(images):
        rows += other_sizes(images, levels).items()
    inside = result.bytes - result.parts.get("apart", 0)
    lines = [(name, f"{size:,}", f"{size / inside:.2f}") for name, size in rows]
    return table(("format", "bytes", "times nelbo's"), lines, "Bytes of the same images")


def decompressed(studio: Studio, run: str | None, given: str | None, made: str | None) -> list[Any]:
    """The images of an uploaded file, or of the one that was made last."""
    from nelbo.jobs.decompress import decompress, lost_line
    from nelbo.report.paths import unused

    if given is None and made is None:
        raise InputError("file", "there is none yet; compress images first, or choose a file")
    opened = studio.opened(run)
    file = studio.folders.inside(made) if given is None and made is not None else studio.uploaded(str(given))
    out = unused(studio.scratch, "images", "")
    try:
        found, seconds = timed(lambda: decompress(opened, file, out, partial=True))
    except InputError as error:
        where = file.name if error.where == str(file) else error.where
        raise InputError(where, error.problem) from None
    if not found.count:
        raise InputError("file", lost_line(found))
    packed = shutil.make_archive(str(out), "zip", out)
    total = found.count + len(found.lost)
    line = f"{found.count:,} of {total:,} images are back, {duration(seconds)}."
    line += f" The first {SHOWN} are shown." if len(found.rows) > SHOWN else ""
    lost = f"The file {lost_line(found)}." if not found.whole else ""
    return [note(line, lost), shown(found), gr.DownloadButton(value=packed, visible=True)]


def shown(found: Decompressed) -> str:
    """The first images, with their names or numbers."""
    rows = found.rows[:SHOWN]
    names = [Path(found.names[row]).name if found.names else f"image {row}" for row in rows]
    return figures(found.images[:SHOWN], found.levels, names)


SCREEN = Screen(90, "compress", "Compress", build)
