"""The bounds of the images in a file, to say where its bits go."""

from __future__ import annotations

import torch

from nelbo.codec.coder import Images
from nelbo.errors import InputError
from nelbo.jobs.sharded import shared_score
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.report.compressed import Bounds
from nelbo.training.machine import usual_batch


def measured_bounds(own: LikelihoodModel, in_steps: LikelihoodModel, images: Images, seed: int) -> Bounds:
    """The run's own bound, and that in the steps of the file, of the same images.

    Args:
        own: the run's model.
        in_steps: the model in the steps of the file; of a family without steps, a model like ``own``.
        images: levels, shape (n, C, H, W).
        seed: of the noise.
    """
    value, error = bound_of(own, images, seed, "own bound")
    found = Bounds(n=len(images), own=value, own_stderr=error)
    if not isinstance(in_steps, Diffusion):
        return found
    value, error = bound_of(in_steps, images, seed, "bound in steps")
    return found.model_copy(update={"in_steps": value, "in_steps_stderr": error})


def bound_of(model: LikelihoodModel, images: Images, seed: int, title: str) -> tuple[float, float]:
    """The bound of images and its Monte Carlo error, in bits/dim, by the model's first form."""
    form = next(iter(model.forms))
    timesteps = model.forms.default_timesteps if model.forms[form].counts == "timesteps" else 0
    batch, x = usual_batch(model.device), torch.from_numpy(images)
    found = shared_score(model, x, title, 2, seed=seed, timesteps=timesteps, batch=batch, form=form, k=1)
    return found.bits(), found.stderr_mc()


def require_bound(model: GenerativeModel) -> LikelihoodModel:
    """The model, if it has a bound.

    Raises:
        InputError: it has none.
    """
    if not isinstance(model, LikelihoodModel):
        raise InputError("bounds", f"a {model.family} has no bound; leave it out")
    return model
