"""Walks through the latents of a model: images on a path from one draw of a seed to another."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.editing.latents import slerp
from nelbo.errors import InputError
from nelbo.jobs.edit_diffusion import DiffusionEditor
from nelbo.jobs.run import Run
from nelbo.models._diffusion_clusters import shown_drawn_clusters
from nelbo.models._imputation import latent_space, size_of
from nelbo.models._labels import known_class
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.gan import GAN
from nelbo.rng import Stream, normal
from nelbo.theory.likelihoods import to_levels

VIEWED = 8


@torch.no_grad()
def walk(run: Run, seeds: tuple[int, int], count: int = 8, label: str | None = None, steps: int = 20) -> Tensor:
    """Images from the first draw of one seed to that of another, on a path that is standard normal at every point.

    :func:`~nelbo.editing.latents.slerp` has the path. A diffusion model follows its deterministic flow from each point;
    a vae, an hvae and a gan decode it, an hvae with all its levels on their paths.

    Args:
        run: the run.
        seeds: the seeds of both ends.
        count: the number of images, at least 2.
        label: the class of all images, for a run with labels; None for none.
        steps: steps of the flow.

    Returns:
        Integer levels, uint8, shape (count, C, H, W).

    Raises:
        InputError: the model has no latents to walk through, or no such class.
    """
    model = run.model()
    share = torch.linspace(0, 1, count, dtype=torch.float64, device=model.device)
    if isinstance(model, Diffusion):
        ends = [normal(seed, Stream.SAMPLE, 0, range(1), model.shape, device=model.device) for seed in seeds]
        most = len(model.timeline.chain()) - 1
        known = known_class(model, label)
        told = [shown_drawn_clusters(model, range(1), seed, known.label).denoiser.known.picture for seed in seeds]
        means = [picture for picture in told if picture is not None]
        pictures = torch.cat(means) if means else None
        return DiffusionEditor(model, min(steps, most), True, known).between(torch.cat(ends), pictures, count, count)
    return to_levels(decoded(model, seeds, share, label), model.levels).cpu()


def decoded(model: GenerativeModel, seeds: tuple[int, int], share: Tensor, label: str | None) -> Tensor:
    """Images of a model that decodes latents in one step, on [−1, 1], shape (count, C, H, W).

    Raises:
        InputError: the model has no latents to walk through, or no such class.
    """
    count, space = len(share), latent_space(model, known_class(model, label))
    if space is not None:
        size = (sum(map(size_of, space.sizes)),)
        starts, stops = (
            space.cut(normal(seed, Stream.SAMPLE, 0, range(1), size, device=model.device)) for seed in seeds
        )
        pairs = zip(starts, stops, strict=True)
        noise = [slerp(a.expand(count, *a.shape[1:]), b.expand(count, *b.shape[1:]), share) for a, b in pairs]
        return space.law(space.prior(noise)).expectation()
    if isinstance(model, GAN) and model.clusters is None and label is None:
        shape = (model.options.latent,)
        a, b = (normal(seed, Stream.SAMPLE, 0, range(1), shape, device=model.device) for seed in seeds)
        return model.draw(slerp(a.expand(count, -1), b.expand(count, -1), share))
    raise InputError("run", f"this {model.family} has no walk between seeds; see its views of images below")


@torch.no_grad()
def views(run: Run, split: str = "test") -> list[tuple[str, Tensor, int]]:
    """How the model works on a few unseen images: (title, integer levels, columns), for example the levels of an hvae.

    Args:
        run: the run.
        split: the split of the images.

    Raises:
        InputError: the run's images cannot be read.
    """
    model = run.model()
    found = model.inspector.views(run.dataset.split(split)[:VIEWED])
    return [(title, to_levels(x, model.levels).cpu(), columns) for title, x, columns in found]
