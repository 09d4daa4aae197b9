"""Sample images from a run: a grid, a folder, the exact levels, or an animation."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.cores import on_own_cores
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.jobs.drawn import Drawn, counted
from nelbo.jobs.known import quality_line
from nelbo.jobs.run import Run
from nelbo.jobs.sharded import opened
from nelbo.jobs.steps import sampled_steps
from nelbo.models._labels import drawn_classes
from nelbo.models.base import GenerativeModel
from nelbo.models.sampling import Frame, SampleKeywords, SampleSettings
from nelbo.options import SampleOptions, SamplingOptions
from nelbo.processes import join, rank
from nelbo.report.paths import free, unused
from nelbo.report.progress import bar
from nelbo.rng import permutation
from nelbo.streams import as_text
from nelbo.theory.likelihoods import to_levels

GIF_FRAMES = 60
NOT_WRITTEN = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".pt")


def sample(
    run: str | Path | Run,
    n: int = 64,
    *,
    seed: int = 0,
    batch: int = 64,
    weights: str = "ema",
    device: str = "auto",
    settings: SampleSettings | None = None,
    **chosen: Unpack[SampleKeywords],
) -> Tensor:
    """Sample n images from a run, like ``nelbo sample``, as a tensor.

    Args:
        run: the run, or its directory.
        n: the number of images.
        seed: image i of a seed is always the same image.
        batch: images per batch; it affects only speed and memory.
        weights: ``ema``, the moving average, or ``raw``.
        device: the device of the model.
        settings: the settings of sampling; None for the family's defaults.
        chosen: fields of :class:`~nelbo.models.base.SampleSettings` by name, such as ``steps=20``.

    Returns:
        Integer levels, uint8, shape (n, C, H, W).

    Raises:
        InputError: an argument cannot be used.
    """
    model = (run if isinstance(run, Run) else Run(run)).model(weights, device)
    return model.sample(n, seed=seed, batch=batch, settings=settings, **chosen)


def settings_of(options: SamplingOptions) -> SampleSettings:
    """The sampling options as settings for a model; best steps are those of ancestral.

    Raises:
        InputError: an interval is not two numbers.
    """
    given = {name: getattr(options, name) for name in SampleSettings._fields if hasattr(options, name)}
    if given.get("guidance_interval") is not None:
        given["guidance_interval"] = interval_of(given["guidance_interval"])
    settings = SampleSettings(**given)
    return settings._replace(sampler="ancestral") if options.spacing == "best" else settings


def interval_of(text: str) -> tuple[float, float]:
    """Two numbers from LOW,HIGH.

    Raises:
        InputError: the text has another form.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InputError("guidance_interval", f"{text!r} is not LOW,HIGH, two numbers such as -3,4") from None
    return low, high


def guided(run: Run, settings: SampleSettings, options: SamplingOptions, weights: str, device: str) -> SampleSettings:
    """The settings with the weaker model that ``autoguidance`` names.

    Raises:
        InputError: the run has no checkpoint of this step.
    """
    if options.autoguidance is None:
        return settings
    try:
        return settings._replace(weaker=run.model(weights, device, step=options.autoguidance))
    except InputError as error:
        raise InputError("autoguidance" if error.where == "step" else error.where, error.problem) from None


def drawn(run: Run, n: int, options: SampleOptions, keep_frames: bool = False) -> Drawn:
    """Sample n ≥ 1 images.

    Args:
        run: the run.
        n: the number of images.
        options: the options of sampling.
        keep_frames: whether to keep x̂_0 at about 60 steps.

    Raises:
        InputError: an argument cannot be used.
    """
    settings = settings_of(options)
    model = sampled_steps(run, run.model(options.weights, options.device), options, options.weights)
    settings = guided(run, settings, options, options.weights, options.device)
    how = model.inspector.describe_sampling(settings)
    classes, began = classes_of(model, settings, n), time.monotonic()
    with counted(model) as evaluations:
        images, frames = collect(model, n, options.seed, settings, options.batch_size, keep_frames)
    seconds, each = time.monotonic() - began, evaluations() * join().count / n
    each = each or model.inspector.sample_evaluations
    return Drawn(images, frames, model.levels, classes, model.family, how, seconds, each, quality_line(run, model))


def draw(path: str | Path | Run, n: int, options: SampleOptions) -> tuple[Path, str, str]:
    """Sample n ≥ 1 images and write them.

    Returns:
        The path of the result, a description of the sampling, and what is known of the quality of the run's samples.

    Raises:
        InputError: an argument cannot be used.
    """
    out = options.out
    if out is not None and out.suffix.lower() in NOT_WRITTEN:
        raise InputError("out", f"{out.suffix} is not supported; use a .png, a .gif, an .npz, or a folder")
    run = opened(path)
    out = free(out, "out") if out is not None else usual_out(run, n, options.seed)
    if options.real and out.suffix.lower() != ".png":
        raise InputError("real", "needs a .png; leave it out, or give `out` a name that ends in .png")
    if options.real:
        run.dataset.split("test")  # raises for missing images before sampling
    found = drawn(run, n, options, keep_frames=out.suffix.lower() == ".gif")
    if rank() == 0:
        found.save(
            out, (lambda: real_rows(run.dataset, "test", n, options.seed, found.classes)) if options.real else None
        )
    return out, found.how, found.known


def usual_out(
    run: Run, n: int, seed: int, suffix: str = ".png", step: int | None = None, label: str | None = None
) -> Path:
    """The first unused path in RUN/samples for n samples of a seed.

    Args:
        run: the run.
        n: the number of samples.
        seed: their seed.
        suffix: of the file.
        step: of the checkpoint that drew them; None for the run's latest.
        label: their class, which becomes a part of the name; None or "" for none.
    """
    of_class = "-" + re.sub(r"[^\w.+-]+", "_", label) if label else ""
    return unused(
        run.path / "samples", f"step-{run.step if step is None else step:08d}-n{n}-seed{seed}{of_class}", suffix
    )


def classes_of(model: GenerativeModel, settings: SampleSettings, n: int, field: str = "n") -> list[str]:
    """The classes to draw, image i of the class i mod their number; none without a label.

    Args:
        model: the model.
        settings: the settings of sampling.
        n: the number of images.
        field: the name of this number.

    Raises:
        InputError: there are fewer images than classes.
    """
    classes = drawn_classes(model, settings)
    if n < len(classes):
        raise InputError(
            field, f"{n} is less than the number of classes, {len(classes)}; give at least one image of each"
        )
    return classes


def real_rows(dataset: Dataset, split: str, n: int, seed: int, classes: Sequence[str]) -> list[Tensor]:
    """As many real images as samples of each class; without classes, n evenly from all of them.

    Raises:
        InputError: the split has no image of these classes.
    """
    labels = dataset.split_labels(split)
    if not classes or labels is None:
        return [real_images(dataset, split, n, seed)]
    images, order = dataset.split(split), torch.from_numpy(permutation(seed, 0, len(labels)))
    names = [as_text(dataset.classes[label]) for label in labels[order].tolist()]
    rows = []
    for k, name in enumerate(classes):
        of_class = order[torch.tensor([other == name for other in names])]
        rows.append(images[of_class[: len(range(k, n, len(classes)))]])
    if not any(map(len, rows)):
        raise InputError("real", f"the {split} split has no image of {', '.join(classes)}; leave it out")
    return rows


def real_images(dataset: Dataset, split: str, n: int, seed: int = 0) -> Tensor:
    """n random images of a split, evenly from all its classes; all images if there are fewer.

    Args:
        dataset: the images.
        split: the split.
        n: the number of images.
        seed: the seed of the choice.
    """
    images, labels = dataset.split(split), dataset.split_labels(split)
    order = torch.from_numpy(permutation(seed, 0, len(images)))
    if labels is not None:
        of_class = F.one_hot(labels[order], len(dataset.classes)).cumsum(0)
        turn = of_class.gather(1, labels[order, None])[:, 0]  # the k-th of its class has turn k
        order = order[turn.argsort(stable=True)[:n].sort().values]
    return images[order[:n]]


@on_own_cores()
@torch.no_grad()
def collect(
    model: GenerativeModel, n: int, seed: int, settings: SampleSettings, batch: int, keep_frames: bool, of: str = ""
) -> tuple[Tensor, list[Tensor]]:
    """All n images as levels, and with ``keep_frames`` about 60 states of x̂_0, each of all n images.

    The bar's title ends with ``of``; it moves at every step of a batch.
    """
    team = join()
    share = team.share(n)
    done: list[Tensor] = []
    stages: list[list[Tensor]] = []
    with bar(f"sampling {n:,} images{of}", len(share)) as progress:
        for first in range(share.start, share.stop, batch):
            indices = range(first, min(first + batch, share.stop))
            shown: list[Tensor] = []
            frame: Frame | None = None
            for frame in model.frames(indices, seed, settings):
                progress.move(first - share.start + len(indices) * frame.done / frame.of)
                if keep_frames and wanted(frame):
                    shown.append(to_levels(frame.x_0, model.levels).cpu())
            assert frame is not None
            done.append(to_levels(frame.x, model.levels).cpu())
            stages.append(shown)
        images = team.together(torch.cat(done), n)
        return images, [team.together(torch.cat(parts), n) for parts in zip(*stages, strict=True)]


def wanted(frame: Frame) -> bool:
    """Whether this frame is one of about 60 evenly spaced ones, or the last."""
    every = max(1, frame.of // GIF_FRAMES)
    return frame.done % every == 0 or frame.done == frame.of
