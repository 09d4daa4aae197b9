"""nelbo: train, sample, score and compress images with generative models whose bounds you can check.

import nelbo

run = nelbo.train("ddpm", "digits", minutes=2)             # the options of the command line
print(run.score())

model = nelbo.Diffusion(network=MyNet(), shape=(1, 28, 28), levels=256)      # your own network
run = nelbo.fit(model, images, steps=1000, out="runs/mine")
images = nelbo.load("runs/mine", network=MyNet()).sample(16)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nelbo.data import Dataset as Dataset
    from nelbo.diffusion import objectives as objectives
    from nelbo.diffusion import samplers as samplers
    from nelbo.diffusion import schedules as schedules
    from nelbo.errors import InputError as InputError
    from nelbo.jobs.classify import classify as classify
    from nelbo.jobs.compare import compare as compare
    from nelbo.jobs.compress import compress as compress
    from nelbo.jobs.decompress import Decompressed as Decompressed
    from nelbo.jobs.decompress import decompress as decompress
    from nelbo.jobs.describe import info as info
    from nelbo.jobs.distill import distill as distill
    from nelbo.jobs.edit import Edited as Edited
    from nelbo.jobs.edit import edit as edit
    from nelbo.jobs.evaluate import evaluate as evaluate
    from nelbo.jobs.features import features as features
    from nelbo.jobs.fit import fit as fit
    from nelbo.jobs.run import Run as Run
    from nelbo.jobs.run import load as load
    from nelbo.jobs.sample import sample as sample
    from nelbo.jobs.score import score as score
    from nelbo.jobs.train import train as train
    from nelbo.models.ae import AE as AE
    from nelbo.models.diffusion import Diffusion as Diffusion
    from nelbo.models.gan import GAN as GAN
    from nelbo.models.hvae import HVAE as HVAE
    from nelbo.models.vae import VAE as VAE
    from nelbo.report.compressed import Compression as Compression
    from nelbo.report.results import Classification as Classification
    from nelbo.report.results import Comparison as Comparison
    from nelbo.report.results import Evaluation as Evaluation
    from nelbo.report.results import Score as Score

PLACES = {
    "AE": "models.ae",
    "Classification": "report.results",
    "Comparison": "report.results",
    "Compression": "report.compressed",
    "Dataset": "data",
    "Decompressed": "jobs.decompress",
    "Diffusion": "models.diffusion",
    "Edited": "jobs.edit",
    "Evaluation": "report.results",
    "GAN": "models.gan",
    "HVAE": "models.hvae",
    "InputError": "errors",
    "Run": "jobs.run",
    "Score": "report.results",
    "VAE": "models.vae",
    "classify": "jobs.classify",
    "compare": "jobs.compare",
    "compress": "jobs.compress",
    "decompress": "jobs.decompress",
    "distill": "jobs.distill",
    "edit": "jobs.edit",
    "evaluate": "jobs.evaluate",
    "features": "jobs.features",
    "fit": "jobs.fit",
    "info": "jobs.describe",
    "load": "jobs.run",
    "objectives": "diffusion.objectives",
    "sample": "jobs.sample",
    "samplers": "diffusion.samplers",
    "schedules": "diffusion.schedules",
    "score": "jobs.score",
    "train": "jobs.train",
}
"""Every public name, and its module."""

__all__ = list(PLACES)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``nelbo --help`` does not import torch."""
    if name not in PLACES:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    module = importlib.import_module(f"nelbo.{PLACES[name]}")
    return module if name in ("objectives", "samplers", "schedules") else getattr(module, name)


def __dir__() -> list[str]:
    """The public names, and the version."""
    return sorted([*PLACES, "__version__"])
