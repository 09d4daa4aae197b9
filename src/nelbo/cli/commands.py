"""All commands but ``train``."""

from __future__ import annotations

import errno
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from nelbo.options import (
    ClassifyOptions,
    CompressOptions,
    DataOptions,
    DecompressOptions,
    DistillOptions,
    EditOptions,
    EvaluateOptions,
    FeaturesOptions,
    SampleOptions,
    ScoreOptions,
)

if TYPE_CHECKING:
    from nelbo.report.results import Result

READING = Parameter(name="*", group=Group("How to read --data"))
AtLeastOne = Annotated[int, Parameter(validator=Number(gte=1))]
Json = Annotated[bool, Parameter(negative="")]


def sample(
    run: Path,
    /,
    *,
    n: Annotated[AtLeastOne, Parameter(name=["--n", "-n"])] = 64,
    options: Annotated[SampleOptions, Parameter(name="*")] = SampleOptions(),
) -> None:
    """Run ``nelbo sample``.

    Parameters
    ----------
    run
        The directory made by 'train'.
    n
        Number of images.
    """
    from nelbo.jobs.sample import draw
    from nelbo.report.progress import console

    where, how, known = draw(run, n, options)
    console().print(f"{n} images, {how}, seed {options.seed}, {options.weights} weights")
    console().print(known)
    print(where)


def edit(
    run: Path,
    verb: Literal["inpaint", "upscale", "vary", "invert", "interpolate"],
    /,
    *images: Path,
    n: Annotated[AtLeastOne | None, Parameter(name=["--n", "-n"])] = None,
    options: Annotated[EditOptions, Parameter(name="*")] = EditOptions(),
) -> None:
    """Run ``nelbo edit``.

    Parameters
    ----------
    run
        The directory made by 'train'.
    verb
        inpaint, upscale, vary, invert or interpolate.
    images
        Image files; two for interpolate.
    n
        inpaint, upscale, vary: draws of each image; default 8.
    """
    from nelbo.jobs.edit_output import write_edit
    from nelbo.report.progress import console

    where, done = write_edit(run, verb, images, n, options)
    console().print(f"{verb}: {done.how}")
    print(where)


def score(
    run: Path,
    /,
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    options: Annotated[ScoreOptions, Parameter(name="*")] = ScoreOptions(),
    json: Json = False,
) -> None:
    """Run ``nelbo score``.

    Parameters
    ----------
    run
        The directory made by 'train'.
    json
        Print one JSON object and nothing else.
    """
    from nelbo.jobs.score import score as measure

    found = measure(run, data=data if data.model_fields_set else None, options=options)
    show(found, json)
    if found.page is not None and not json:
        print(found.page)


def classify(
    run: Path,
    /,
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    options: Annotated[ClassifyOptions, Parameter(name="*")] = ClassifyOptions(),
    json: Json = False,
) -> None:
    """Run ``nelbo classify``.

    Parameters
    ----------
    run
        The directory made by 'train' with --labels.
    json
        Print one JSON object and nothing else.
    """
    from nelbo.jobs.classify import classify as measure

    show(measure(run, data=data if data.model_fields_set else None, options=options), json)


def evaluate(
    run: Path, /, *, options: Annotated[EvaluateOptions, Parameter(name="*")] = EvaluateOptions(), json: Json = False
) -> None:
    """Run ``nelbo evaluate``.

    Parameters
    ----------
    run
        The directory made by 'train'.
    json
        Print one JSON object and nothing else.
    """
    from nelbo.jobs.evaluate import evaluate as measure

    show(measure(run, options=options), json)


def show(result: Result, json: bool) -> None:
    """Print a result as JSON, or as a table that is wide enough for every number."""
    from nelbo.streams import Speaker

    if json:
        print(result.to_json())
    else:
        result.show(Speaker(width=200))


def features(
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    options: Annotated[FeaturesOptions, Parameter(name="*")] = FeaturesOptions(),
) -> None:
    """Run ``nelbo features``."""
    from nelbo.jobs.features import features as learn
    from nelbo.report.progress import console

    where, about = learn(data, options=options)
    right = about["accuracy"]
    console().print(
        f"right on {right['val']:.2%} of val and {right['test']:.2%} of test, sha256 {about['sha256'][:12]}…"
    )
    print(where)


def compare(
    *runs: Path,
    out: Path = Path("compare"),
    split: str = "test",
    score: Annotated[bool, Parameter(negative="")] = False,
    limit: AtLeastOne | None = None,
    json: Json = False,
) -> None:
    """Run ``nelbo compare``.

    Parameters
    ----------
    runs
        The directories made by 'train', scored before by 'nelbo score', or now with --score.
    out
        The folder for index.html and compare.json.
    split
        The split of the scores.
    score
        Compute missing scores, so that all runs of the same data are scored on the same images.
    limit
        With --score: the number of images; default: the largest number of any earlier score.
    json
        Print the contents of compare.json, and nothing else.
    """
    from nelbo.jobs.compare import compare as put
    from nelbo.report.progress import console

    found = put(runs, out, split=split, score=score, limit=limit)
    if found.unlike:
        console().print(found.unlike)
    print(found.to_json() if json else out / "index.html")


def compress(
    run: Path,
    /,
    *images: str,
    out: Path,
    options: Annotated[CompressOptions, Parameter(name="*")] = CompressOptions(),
    json: Json = False,
) -> None:
    """Run ``nelbo compress``.

    Parameters
    ----------
    run
        The directory made by 'train'.
    images
        Files and folders of images; or one data set: a name, a .npy, .npz or IDX file, hf:NAME.
    out
        The new file.
    json
        Print the facts of the file as one JSON object, and nothing else.
    """
    from nelbo.jobs.compress import compress as put
    from nelbo.report.progress import console

    found = put(run, images, out, options=options)
    if json:
        print(found.to_json())
        return
    console().print("\n".join(lines(found.lines())))
    print(out)


def decompress(
    run: Path,
    file: Path,
    /,
    *,
    out: Path,
    options: Annotated[DecompressOptions, Parameter(name="*")] = DecompressOptions(),
) -> None:
    """Run ``nelbo decompress``.

    Parameters
    ----------
    run
        The run that made the file.
    file
        The file.
    out
        A new folder, with the files that were given; or a .npy or .npz.
    """
    from nelbo.jobs.decompress import decompress as put
    from nelbo.jobs.decompress import lost_line
    from nelbo.report.progress import console

    found = put(run, file, out, indices=options.indices, partial=True)
    for problem in found.problems if found.whole else ():
        console().print(f"{file}: {problem}; all images are whole")
    if found.count:
        print(out)
    if not found.whole:
        raise OSError(errno.EIO, lost_line(found), str(file))


def info(what: str, /, *, reading: Annotated[DataOptions, READING] = DataOptions(), json: Json = False) -> None:
    """Run ``nelbo info``.

    Parameters
    ----------
    what
        RUN, SPEC, or a file of 'compress'.
    json
        Print one JSON object and nothing else.
    """
    from nelbo.errors import InputError
    from nelbo.jobs.archive_facts import facts_of, is_archive
    from nelbo.jobs.describe import info as describe

    if "data" in reading.model_fields_set:
        raise InputError("data", "'info' describes its argument WHAT; leave --data out")
    if is_archive(Path(what)):
        found = facts_of(Path(what))
        print(found.to_json() if json else "\n".join(lines(found.lines())))
        return
    facts = describe(what, reading)
    if json:
        print(dumps(facts))
    else:
        print("\n".join(lines(facts)))


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """``name  value`` for each fact; a table is one line, notes have a line each."""
    width = max(len(name) for name in facts)
    below = "\n" + " " * (len(indent) + width + 2)
    return [
        f"{indent}{name:<{width}}  {below.join(value) or 'none' if name == 'notes' else shown(value)}"
        for name, value in facts.items()
    ]


def shown(value: Any) -> str:
    """A value as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} = {shown(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list):
        return " ".join(shown(part) for part in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def distill(run: Path, /, *, options: Annotated[DistillOptions, Parameter(name="*")] = DistillOptions()) -> None:
    """Run ``nelbo distill``.

    Parameters
    ----------
    run
        The teacher: a ddpm that predicts v or x0, or a vdm.
    """
    from nelbo.jobs.distill import distill as put

    print(put(run, options=options))


def studio(
    *folders: Path,
    host: str = "127.0.0.1",
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    open_browser: Annotated[bool, Parameter(name="--open")] = True,
) -> None:
    """Run ``nelbo studio``.

    Parameters
    ----------
    folders
        Folders of runs and of images, or runs; default: runs, which is made if it does not exist.
    host
        The address to listen on; any but 127.0.0.1 asks visitors for a token.
    port
        The port; default: the first free one from 7860 on.
    open_browser
        Open the page in the browser, if the command is typed in a terminal.
    """
    import sys

    from nelbo.jobs.progress import default_folders
    from nelbo.studio.safety import Folders
    from nelbo.studio.server import serve

    serve(Folders(folders or default_folders()), host, port, open_browser and sys.stdout.isatty())


def import_(
    folder: Path,
    run: Path,
    /,
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    label: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
) -> None:
    """Run ``nelbo import``.

    Parameters
    ----------
    folder
        A folder with unet/ and scheduler/, made by save_pretrained of a pipeline; or of the network alone, with
        scheduler_config.json beside config.json.
    run
        The new run directory.
    label
        The class to sample and score, for a class-conditional network.
    """
    from nelbo.jobs.interchange import import_folder

    print(import_folder(folder, run, data=data if data.model_fields_set else None, label=label).path)


def export(run: Path, folder: Path, /, *, weights: str = "ema") -> None:
    """Run ``nelbo export``.

    Parameters
    ----------
    run
        A run of a ddpm with diffusers' network: from 'nelbo import', or trained from such a run by --config.
    folder
        The new folder.
    weights
        ema (the moving average) or raw.
    """
    from nelbo.jobs.interchange import export_run

    print(export_run(run, folder, weights))
