"""The sampler and the steps of a diffusion model, from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from nelbo.diffusion.denoiser import clipping
from nelbo.diffusion.samplers import DDIM, Ancestral, DPMSolver, Heun, Sampler, UniPC, trajectory
from nelbo.diffusion.spacing import karras_steps
from nelbo.errors import InputError, nearest
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.rng import Stream, normal

if TYPE_CHECKING:
    from nelbo.models.diffusion import Diffusion

FEW_STEPS = 20
"""Up to this number of steps unipc is closest to samples of all steps; beyond it ddim is (docs/samplers.md)."""
QUICK_STEPS, FAST_STEPS, PREVIEW_STEPS = 50, 20, 25
"""Steps: of ddim, of samplers of higher order, which are the default, and of previews while training."""

Walk = tuple[Sampler, Tensor]
"""A sampler, and the γ of its steps: γ_1 > γ_2 > … > −∞."""


def make_sampler(model: Diffusion, settings: SampleSettings) -> Walk:
    """The sampler and its steps, from the settings.

    Raises:
        InputError: the sampler is unknown, has no η, or the steps are too many.
    """
    if settings.temperature is not None:
        why = f"scales latents from a prior, which {model.family} does not have"
        raise InputError("temperature", f"{why}; leave it out")
    if settings.sampler is not None and not isinstance(settings.sampler, str | Sampler):
        raise InputError("sampler", f"{settings.sampler!r} is not a sampler; pass a name or a Sampler instance")
    if isinstance(settings.sampler, Sampler):
        if settings.eta is not None:
            raise InputError("eta", "applies only to the name ddim; set it on your own sampler")
        return settings.sampler, model.timeline.descending(settings.steps or fast_steps(model))
    name = chosen(settings)
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InputError("sampler", f"{name!r} is not a sampler{nearest(name, SAMPLERS)} (samplers: {known})")
    if name != "ddim" and settings.eta is not None:
        raise InputError("eta", "only ddim has η; leave it out, or use `sampler` ddim")
    return SAMPLERS[name](model, settings)


def chosen(settings: SampleSettings) -> str:
    """The name of the given sampler, or of the best one for the number of steps; η is ddim's."""
    many = settings.steps is not None and settings.steps > FEW_STEPS
    return str(settings.sampler or ("ddim" if many or settings.eta is not None else "unipc"))


def quick_steps(model: Diffusion) -> int:
    """The default of ddim: samples then differ from those of 1,000 steps by less than the error (docs/samplers.md)."""
    gammas = model.timeline.gammas
    return QUICK_STEPS if gammas is None else min(QUICK_STEPS, len(gammas) - 1)


def fast_steps(model: Diffusion) -> int:
    """Enough steps of a sampler of higher order; the default."""
    return min(FAST_STEPS, quick_steps(model))


def ancestral(model: Diffusion, settings: SampleSettings) -> Walk:
    """By default every step of the model whose bound is scored."""
    return Ancestral(model.variance), model.timeline.descending(settings.steps)


def ddim(model: Diffusion, settings: SampleSettings) -> Walk:
    """Evenly spaced steps in t; by default η = 1, as ancestral sampling."""
    return DDIM(1.0 if settings.eta is None else settings.eta), model.timeline.descending(
        settings.steps or quick_steps(model)
    )


def dpm_solver(model: Diffusion, settings: SampleSettings) -> Walk:
    """Few steps, evenly spaced in t."""
    return DPMSolver(), model.timeline.descending(settings.steps or fast_steps(model))


def unipc(model: Diffusion, settings: SampleSettings) -> Walk:
    """Few steps, with Karras's spacing."""
    return UniPC(), karras_steps(model.timeline.chain(), settings.steps or fast_steps(model))


def heun(model: Diffusion, settings: SampleSettings) -> Walk:
    """Karras's spacing; all steps but the last take two evaluations, so half as many steps as evaluations."""
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
"""Every sampler by name: a function from model and settings to the sampler and its steps."""


def walk(
    model: Diffusion, sampler: Sampler, gammas: Tensor, indices: Sequence[int], seed: int, clip: bool
) -> Iterator[Frame]:
    """Sample the images with these indices at these γ, with x̂_0 clamped to [−1, 1] if ``clip``."""

    def noise(step: int) -> Tensor:
        return normal(seed, Stream.SAMPLE, step, indices, model.shape, device=model.device)

    states = trajectory(sampler, model.denoiser, noise(0), gammas, lambda n: noise(n + 1), clip)
    for done, state in enumerate(states, 1):
        yield Frame(done, len(gammas) - 1, state.z, state.denoised.x_0)


def described(model: Diffusion, settings: SampleSettings) -> str:
    """A line about how the model samples with these settings."""
    sampler, gammas = make_sampler(model, settings)
    name, steps = chosen(settings), len(gammas) - 1
    if isinstance(settings.sampler, Sampler):
        name = type(sampler).__name__
    elif isinstance(sampler, DDIM):
        name = f"ddim, η = {sampler.eta:g}"
    elif isinstance(sampler, Heun):
        name = f"heun, {2 * steps - 1} evaluations"
    return f"{name}, {steps} steps" + (", x̂_0 clipped to [−1, 1]" if settings.clip else "")
