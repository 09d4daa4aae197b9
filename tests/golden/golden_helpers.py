"""The numbers of a golden run: the bound of some images in every form, samples by every sampler, and ``info``.

A golden run is a tiny trained run of one family and form, written by an older version. Every later version must read it
and give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nelbo.jobs.describe import describe_run
from nelbo.jobs.run import Run
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion, in_steps
from nelbo.models.sampling import SampleSettings
from nelbo.torch_settings import default_dtype

RUNS = Path(__file__).parent
EXPECTED, INFO = "expected.safetensors", "info.json"
IMAGES, SAMPLES, TIMESTEPS, TRAJECTORIES, SEED, STEPS = 8, 4, 2, 2, 1, 8
SAMPLERS = ("ancestral", "ddim", "dpm++", "unipc", "heun")
KEPT = ("family", "step", "images_seen", "parameters", "gamma_at_0", "gamma_at_1", "prior_bits_per_dim_at_most")
"""What of ``info`` has to stay."""


def bounds(model: LikelihoodModel, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """form/term → nats of each image, shape (n,), float64; not of the flow, whose solver has an error of its own."""
    for form in model.forms:
        if not form.startswith("ode"):
            yield from terms(model, x, form)


def terms(model: LikelihoodModel, x: Tensor, form: str) -> Iterator[tuple[str, Tensor]]:
    """form/term → nats of each image, shape (n,), float64."""
    bound = model.bound(x, seed=SEED, form=form, timesteps=TIMESTEPS, k=TRAJECTORIES)
    for name, nats in bound.terms.items():
        yield f"{form}/{name}", nats.double()


def samples(model: GenerativeModel) -> Iterator[tuple[str, Tensor]]:
    """sampler → the state that images are rounded from, on [−1, 1], shape (n, C, H, W)."""
    if not isinstance(model, Diffusion):
        *_, last = model.frames(range(SAMPLES), SEED, SampleSettings())
        yield "default", last.x
        return
    for sampler in SAMPLERS:
        *_, last = model.frames(
            range(SAMPLES),
            SEED,
            SampleSettings(sampler=sampler, steps=STEPS, guidance=1.0 if model.clusters is not None else None),
        )
        yield sampler, last.x


@torch.no_grad()
def numbers(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All results of a golden run, by name, in float64, so that the order of additions does not matter."""
    run = Run(path)
    with default_dtype(torch.float64):
        return numbers_of(run, run.model(device=device).double())


def numbers_of(run: Run, model: GenerativeModel) -> dict[str, Tensor]:
    """The same of a model that is loaded."""
    x = run.dataset.split("test")[:IMAGES].to(model.device)
    found = {f"sample/{sampler}": value for sampler, value in samples(model)}
    if isinstance(model, LikelihoodModel):
        found |= {f"bound/{term}": value for term, value in bounds(model, x)}
        if model.family == "vdm" and model.forms.all_timesteps is None:
            found |= {f"bound in {STEPS} steps/{term}": value for term, value in bounds(in_steps(model, STEPS), x)}
    else:
        found |= {f"measure/{measure}": value.double() for measure, value in model.inspector.measures(x).items()}
    return {name: value.contiguous().cpu() for name, value in found.items()}


def info(path: Path) -> Mapping[str, Any]:
    """What ``info`` says of it, less what may change."""
    said = describe_run(Run(path))
    return {name: said[name] for name in KEPT if name in said}


def record(path: Path) -> None:
    """Write down what the run gives now."""
    save_file(numbers(path), str(path / EXPECTED))
    (path / INFO).write_text(json.dumps(info(path), indent=1) + "\n")


def recorded(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """What the run gave when it was written down."""
    return load_file(str(path / EXPECTED)), json.loads((path / INFO).read_text())
