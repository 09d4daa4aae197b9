"""The variance of a VDM's bound as γ is learned. Writes docs/images/gamma-variance.png.

python bench/run.py gamma [--data digits] [--steps 1500]

Two runs differ only in γ, linear or learned. Every 50 steps, the variance of the bound's estimate with one uniform t is
measured over t and noise, for the images of ``val``, relative to its squared mean.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from nelbo.data import load
from nelbo.diffusion.process import diffuse
from nelbo.diffusion.variances import squared_error
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.options import TrainingOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.likelihoods import to_unit
from nelbo.training import Trainer

OUT = Path(__file__).parents[2] / "docs" / "images" / "gamma-variance.png"
EVERY, ROUNDS = 50, 8


@torch.no_grad()
def relative_variance(model: VDM, images: Tensor) -> tuple[float, float]:
    """Var/mean² of the diffusion term from one uniform t, and its mean in nats; over t, noise and ``ROUNDS`` draws."""
    x_0, terms = to_unit(images, model.levels), []
    for replicate in range(ROUNDS):
        draws = Draws(1, replicate, range(len(images)), len(images), model.device)
        gamma, slope = model.schedule(draws.uniform(Stream.SCORE_TIME))
        eps = draws.normal(Stream.SCORE_NOISE, model.shape)
        error = squared_error(eps, model.denoiser(diffuse(x_0, gamma, eps), gamma).eps)
        terms.append(0.5 * slope * error.double())
    y = torch.stack(terms, 1)
    return float(y.var(1).mean() / y.mean() ** 2), float(y.mean())


def curve(kind: str, data: str, steps: int) -> tuple[list[int], list[float], Tensor]:
    """Steps, relative variances, and γ(t) at the end on a grid of t."""
    dataset = load(data)
    torch.manual_seed(0)
    options = VDMOptions(gamma=kind).resolved(dataset.shape)  # type: ignore[arg-type]
    model = VDM.from_options(options, dataset.shape, dataset.levels)
    places, variances = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, dataset.split("train"), TrainingOptions(steps=steps), Path(folder))
        for step in trainer:
            if step.step % EVERY == 0:
                variance, mean = relative_variance(trainer.ema.model, dataset.split("val"))  # type: ignore[arg-type]
                places.append(step.step)
                variances.append(variance)
                print(f"{kind}, step {step.step}: variance/mean² {variance:.3f}, mean {mean:.1f} nats", flush=True)
    averaged = trainer.ema.model
    assert isinstance(averaged, VDM)
    with torch.no_grad():
        return places, variances, averaged.schedule(torch.linspace(0, 1, 101, dtype=torch.float64))[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Train both, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, default=1500)
    asked = parser.parse_args(argv)
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, colour in (("linear", "#b05030"), ("learned", "#3060a0")):
        places, variances, gamma = curve(kind, asked.data, asked.steps)
        left.plot(places, variances, color=colour, label=f"{kind} γ")
        right.plot(torch.linspace(0, 1, 101), gamma, color=colour, label=f"{kind} γ")
    left.set(xlabel="training step", ylabel="variance / mean² of one-t estimates")
    left.set_ylim(bottom=0)
    right.set(xlabel="t", ylabel="γ(t) at the end")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
