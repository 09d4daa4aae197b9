"""How a diffusion model is sampled: which sampler walks down which steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from nelbo.diffusion.denoiser import clipping
from nelbo.diffusion.samplers import DDIM, Ancestral, DPMSolver, Heun, Sampler, UniPC, trajectory
from nelbo.diffusion.spacing import karras_steps
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError, nearest
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.rng import Stream, normal

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

FEW_STEPS = 20
"""Below so many unipc is nearest to samples of every step, and from there on ddim (docs/samplers.md)."""
QUICK_STEPS, FAST_STEPS, PREVIEW_STEPS = 200, 20, 25
"""Network evaluations of an image: by ddim, by those of higher order, and for a look while training."""

Walk = tuple[Sampler, Tensor]
"""A sampler, and the γ to stop at: γ_1 > γ_2 > … > −∞."""


def make_sampler(model: Diffusion, settings: SampleSettings) -> Walk:
    """The sampler and the steps that the settings ask for.

    Raises:
        InputError: an unknown sampler, η where there is none, or too many steps.
    """
    if settings.temperature is not None:
        why = f"is the spread of latents drawn from a prior, and {model.family} has none"
        raise InputError("temperature", f"{why}; leave it out")
    if settings.sampler is not None and not isinstance(settings.sampler, str | Sampler):
        raise InputError("sampler", f"{settings.sampler!r} is no sampler; give a name, or an instance of a Sampler")
    if isinstance(settings.sampler, Sampler):
        if settings.eta is not None:
            raise InputError("eta", "is ddim's by name; a sampler of your own has its own settings")
        return settings.sampler, model.timeline.descending(settings.steps or fast_steps(model))
    name = chosen(settings)
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InputError("sampler", f"{name!r} is not a sampler{nearest(name, SAMPLERS)} (samplers: {known})")
    if name != "ddim" and settings.eta is not None:
        raise InputError("eta", "only ddim has an η; leave it out, or use `sampler` ddim")
    return SAMPLERS[name](model, settings)


def chosen(settings: SampleSettings) -> str:
    """The sampler that is asked for, or the best with so many steps."""
    few = settings.steps is not None and settings.steps < FEW_STEPS and settings.eta is None
    return str(settings.sampler or ("unipc" if few else "ddim"))


def quick_steps(model: Diffusion) -> int:
    """Steps that are enough for a good picture by ddim, where nothing else is asked for."""
    gammas = model.timeline.gammas
    return QUICK_STEPS if gammas is None else min(QUICK_STEPS, len(gammas) - 1)


def fast_steps(model: Diffusion) -> int:
    """The same for a sampler of higher order."""
    return min(FAST_STEPS, quick_steps(model))


def ancestral(model: Diffusion, settings: SampleSettings) -> Walk:
    """Every step of the model whose bound is scored, unless told otherwise."""
    return Ancestral(VARIANCES[model.reverse_variance]), model.timeline.descending(settings.steps)


def ddim(model: Diffusion, settings: SampleSettings) -> Walk:
    """Steps even in t; as random as ancestral sampling unless told otherwise."""
    return DDIM(1.0 if settings.eta is None else settings.eta), model.timeline.descending(
        settings.steps or quick_steps(model)
    )


def dpm_solver(model: Diffusion, settings: SampleSettings) -> Walk:
    """Few steps, even in t."""
    return DPMSolver(), model.timeline.descending(settings.steps or fast_steps(model))


def unipc(model: Diffusion, settings: SampleSettings) -> Walk:
    """Few steps, in Karras's spacing."""
    return UniPC(), karras_steps(model.timeline.chain(), settings.steps or fast_steps(model))


def heun(model: Diffusion, settings: SampleSettings) -> Walk:
    """Half as many steps as evaluations, in Karras's spacing: all but the last take two."""
    steps = (1 + (settings.steps or fast_steps(model))) // 2
    return Heun(clipping(model.denoiser) if settings.clip else model.denoiser), karras_steps(
        model.timeline.chain(), steps
    )


SAMPLERS: dict[str, Callable[[Diffusion, SampleSettings], Walk]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm++": dpm_solver,
    "unipc": unipc,
    "heun": heun,
}
"""Every sampler by name, with the steps that it takes."""


def walk(
    model: Diffusion, sampler: Sampler, gammas: Tensor, indices: Sequence[int], seed: int, clip: bool
) -> Iterator[Frame]:
    """The images with these indices, drawn by a sampler at these γ, with x̂_0 clamped to [−1, 1] if it is to be."""

    def noise(step: int) -> Tensor:
        return normal(seed, Stream.SAMPLE, step, indices, model.shape, device=model.device)

    states = trajectory(sampler, model.denoiser, noise(0), gammas, lambda n: noise(n + 1), clip)
    for done, state in enumerate(states, 1):
        yield Frame(done, len(gammas) - 1, state.z, state.denoised.x_0)


def described(model: Diffusion, settings: SampleSettings) -> str:
    """One line on how these settings would draw."""
    sampler, gammas = make_sampler(model, settings)
    name, steps = chosen(settings), len(gammas) - 1
    if isinstance(settings.sampler, Sampler):
        name = type(sampler).__name__
    elif isinstance(sampler, DDIM):
        name = f"ddim, η = {sampler.eta:g}"
    elif isinstance(sampler, Heun):
        name = f"heun, {2 * steps - 1} evaluations"
    return f"{name}, {steps} steps" + (", x̂_0 clipped to [−1, 1]" if settings.clip else "")
