"""Edit images with a run: inpaint, upscale, vary, invert, interpolate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from nelbo.check import checked
from nelbo.cores import on_own_cores
from nelbo.diffusion.named import from_words
from nelbo.editing.constraints import BlockMeans, Mask
from nelbo.editing.methods import Method
from nelbo.editing.particles import METHODS
from nelbo.errors import InputError, nearest
from nelbo.jobs.edit_diffusion import DiffusionEditor
from nelbo.jobs.edit_images import Given, at_size, factor_of, read_image, read_mask
from nelbo.jobs.edit_latent import LatentEditor
from nelbo.jobs.edit_task import Task
from nelbo.jobs.run import Run
from nelbo.models._checks import checked_int
from nelbo.models._distilled import Distilled
from nelbo.models._imputation import latent_space
from nelbo.models._labels import known_class
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.options import EditOptions
from nelbo.theory.likelihoods import to_levels, to_unit

Verb = Literal["inpaint", "upscale", "vary", "invert", "interpolate"]
VERBS: tuple[str, ...] = get_args(Verb)
DRAWS = 8
DEFAULT_METHOD = "moments"
ONLY_FOR = {
    "mask": ("inpaint",),
    "factor": ("upscale",),
    "strength": ("vary",),
    "frames": ("interpolate",),
    "method": ("inpaint", "upscale"),
    "n": ("inpaint", "upscale", "vary"),
    "clip": ("inpaint", "upscale", "vary"),
    "fit": ("inpaint", "vary", "invert", "interpolate"),
    "source_label": ("invert",),
}
"""The verbs of each option that not all of them use."""
LATENT_VERBS = ("inpaint", "interpolate")
"""What a vae or hvae can do."""
WHY_NOT = {
    "ae": "it has no law of images; use a run of vae, ddpm or vdm",
    "gan": "it cannot find the latent of an image; use a run of ddpm or vdm",
    "vae": "its latent does not determine an image; use a run of ddpm or vdm",
    "hvae": "its latents do not determine an image; use a run of ddpm or vdm",
}
"""The reason why a family cannot do a verb, as the end of a sentence."""


@dataclass(frozen=True)
class Edited:
    """The result of an edit of M images.

    Attributes:
        verb: what was asked.
        given: the images as they were seen, uint8 levels, shape (M, C, H, W); hidden pixels are grey.
        images: what was drawn, uint8 levels, shape (M n, C, H, W), those of the first image first. For ``invert`` the
            images that the latents give back, in the class ``label``, and for ``interpolate`` the way from the first
            image to the second.
        levels: L.
        how: one line about the method and its bias.
        evaluations: network evaluations of an image; for ``interpolate``, without those of the two latents.
        latents: for ``invert``, shape (M, C, H, W).
        error: for ``invert`` and ``interpolate``, the root mean square of x − x_back on [−1, 1], shape (M,); if
            ``invert`` changes the label, this is the change.
        frames: ``images`` at earlier steps, if they were kept.
    """

    verb: str
    given: Tensor
    images: Tensor
    levels: int
    how: str
    evaluations: int
    latents: Tensor | None = None
    error: Tensor | None = None
    frames: list[Tensor] = field(default_factory=list, repr=False)


def edit(
    run: str | Path | Run,
    verb: Verb,
    *images: Given,
    mask: Given | None = None,
    n: int | None = None,
    options: EditOptions | None = None,
    keep_frames: bool = False,
    **settings: Any,
) -> Edited:
    """Edit images with a run, like ``nelbo edit``.

    Args:
        run: the run, or its directory.
        verb: ``inpaint``, ``upscale``, ``vary``, ``invert`` or ``interpolate``.
        images: files, or integer levels of shape (C, H, W) or (H, W).
        mask: of ``inpaint``, a file whose bright pixels are hidden, or an array of shape (H, W) that is not 0 there.
        n: draws of each image; 8 if None.
        options: the options; or give
        keep_frames: whether to keep the images at about 60 steps.
        settings: fields of :class:`~nelbo.options.EditOptions` by name, such as ``strength=0.3``.

    Returns:
        The images, and how they were made.

    Raises:
        InputError: an argument cannot be used.
    """
    options = options or checked(EditOptions, settings)
    mask = options.mask if mask is None else mask
    if verb not in VERBS:
        raise InputError("verb", f"{verb!r} is not one of {', '.join(VERBS)}{nearest(str(verb), VERBS)}")
    given = {"mask": mask, "n": n}
    named = options.model_fields_set | {name for name, value in given.items() if value is not None}
    require_used(verb, named)
    run = run if isinstance(run, Run) else Run(run)
    task, shown = read_task(run, verb, images, mask, n, options, keep_frames)
    method = method_of(options.method)
    model = run.model(options.weights, options.device)
    return edited(model, verb, task, shown, options, method)


def require_used(verb: str, named: set[str]) -> None:
    """Check that the verb uses every option that was given, and that there is a new label if there is an old one.

    Raises:
        InputError: it does not use one.
    """
    for name, verbs in ONLY_FOR.items():
        if name in named and verb not in verbs:
            raise InputError(name, f"applies to {', '.join(verbs)}, not to {verb}; leave it out")
    if "source_label" in named and "label" not in named:
        raise InputError("source_label", "is the class that an image changes from; add `label`, the class to change to")


def method_of(words: str | None) -> Method:
    """The method of this name, with its numbers in brackets.

    Raises:
        InputError: there is none.
    """
    method: Method = from_words(words or DEFAULT_METHOD, METHODS, "method")
    return method


def read_task(
    run: Run,
    verb: str,
    images: tuple[Given, ...],
    mask: Given | None,
    n: int | None,
    options: EditOptions,
    keep_frames: bool,
) -> tuple[Task, Tensor]:
    """What is asked, and the images to show as given, uint8 levels.

    Raises:
        InputError: an image or the mask cannot be used.
    """
    shape, levels = run.config.images.shape, run.config.images.levels
    count = checked_int("n", DRAWS if n is None else n, 1, 2**20)
    if not images or (verb == "interpolate" and len(images) != 2):
        raise InputError(
            "images", "'interpolate' takes two images" if images else "are missing; name one or more files"
        )
    read = [read_image(each, shape[0], levels, f"image {k}") for k, each in enumerate(images, 1)]
    task = Task(torch.empty(0), count, options.seed, options.batch_size, keep_frames)
    if verb == "upscale":
        factors = {factor_of(tuple(image.shape[1:]), shape, options.factor, name) for image, name in read}
        if len(factors) > 1:
            raise InputError("images", "have different sizes; upscale them one after another")
        small = torch.stack([image for image, _ in read])
        constraint = BlockMeans(factors.pop())
        return replace(task, x=2 * small - 1, constraint=constraint), to_levels(constraint.lift(2 * small - 1), levels)
    whole = torch.stack([at_size(image, shape, options.fit, name) for image, name in read])
    given = to_levels(2 * whole - 1, levels)
    task = replace(task, x=to_unit(given, levels))
    if verb != "inpaint":
        return task, given
    if mask is None:
        raise InputError("mask", "is missing; give an image whose bright pixels are to be drawn")
    seen = read_mask(mask, shape)
    shown = torch.where(seen, given, torch.full_like(given, (levels - 1) // 2))
    return replace(task, constraint=Mask(seen)), shown


@on_own_cores()
@torch.no_grad()
def edited(
    model: GenerativeModel, verb: str, task: Task, given: Tensor, options: EditOptions, method: Method
) -> Edited:
    """The result of one verb.

    Raises:
        InputError: the family cannot do it.
    """
    if isinstance(model, Diffusion):
        return by_diffusion(diffusion_editor(model, verb, options), verb, task, given, options, method)
    if latent_space(model) is None or verb not in LATENT_VERBS:
        other = "only diffusion models, vae and hvae can edit images; use a run of ddpm or vdm"
        why = "edit the run of its teacher" if isinstance(model, Distilled) else WHY_NOT.get(model.family, other)
        raise InputError(verb, f"is not possible with {model.family}: {why}")
    for name in ("method", "clip", *["steps"] * (verb == "interpolate")):
        if name in options.model_fields_set:
            raise InputError(name, f"is not used by {verb} with {model.family}; leave it out")
    return by_latents(model, verb, task, given, options)


def by_latents(model: GenerativeModel, verb: str, task: Task, given: Tensor, options: EditOptions) -> Edited:
    """The result of one verb of a vae or hvae.

    Raises:
        InputError: the model has no such class.
    """
    space = latent_space(model, known_class(model, options.label))
    assert space is not None
    editor, labels = LatentEditor(model, space, options.steps), given_words(options)
    if verb == "interpolate":
        how = f"straight lines between the means of q(z|x){labels}"
        return Edited(verb, given, editor.between(task.x, options.frames), model.levels, how, 1)
    done = editor.conditioned(task)
    how = f"{editor.sweeps} sweeps of z and the hidden pixels{labels}, {editor.caveat}"
    return Edited(verb, given, done.images, model.levels, how, done.evaluations, frames=done.frames)


def diffusion_editor(model: Diffusion, verb: str, options: EditOptions) -> DiffusionEditor:
    """The editor of a diffusion model, told the labels.

    Raises:
        InputError: the model has no such class.
    """
    known = known_class(model, options.label)
    source = known_class(model, options.source_label, "source_label") if verb == "invert" else known
    return DiffusionEditor(model, options.steps, options.clip, known, source)


def by_diffusion(
    editor: DiffusionEditor, verb: str, task: Task, given: Tensor, options: EditOptions, method: Method
) -> Edited:
    """The result of one verb of a diffusion model."""
    levels, labels = editor.model.levels, given_words(options)
    if verb in ("inpaint", "upscale"):
        done = editor.conditioned(task, method)
        how = f"{options.method or DEFAULT_METHOD}, {editor.steps} steps, {done.evaluations} evaluations"
        how = f"{how}{labels}{cluster_words(editor.model, 'what is seen')}, {method.caveat}"
        return Edited(verb, given, done.images, levels, how, done.evaluations, frames=done.frames)
    if verb == "vary":
        done, gamma = editor.varied(task, options.strength)
        how = f"noised to γ = {round(gamma, 6) + 0.0:.3g}, {done.evaluations} steps{labels}"
        how += cluster_words(editor.model, "the noised image")
        return Edited(verb, given, done.images, levels, how, done.evaluations, frames=done.frames)
    z, back = editor.latents(task)
    error = (back - task.x).square().flatten(1).mean(1).sqrt()
    steps = len(editor.flow_gammas) - 1
    changed = verb == "invert" and options.label != options.source_label
    size = f"root mean square {'change' if changed else 'error'} {float(error.max()):.2g} of [−1, 1]"
    cluster = "" if editor.model.clusters is None else ", given the nearest cluster of each image"
    how = f"deterministic flow, {steps} steps each way{labels}{cluster}, {size}"
    if verb == "invert":
        return Edited(verb, given, to_levels(back, levels), levels, how, 4 * steps, z, error)
    images = editor.between(z, editor.pictures(task.x, editor.known), options.frames, task.batch)
    return Edited(verb, given, images, levels, how, 2 * steps - 1, error=error)


def cluster_words(model: Diffusion, by: str) -> str:
    """How the cluster of each draw is chosen, as the end of a sentence, or ""."""
    return "" if model.clusters is None else f", each draw of a cluster that is estimated from {by}"


def given_words(options: EditOptions) -> str:
    """The labels of an edit, as the end of a sentence, or ""."""
    source = "" if options.source_label is None else f" from label {options.source_label}"
    return "" if options.label is None else f", given label {options.label}{source}"
