"""What each form of the bound costs: the variance of its estimate per network evaluation, on a given run.

python bench/forms.py RUN [--split test] [--limit 100] [--replicates 16] [--timesteps K …]

An estimate that takes E evaluations and has variance V (of one image, in nats², averaged over images) has the error of
a budget of N evaluations V·E/N: so V·E compares forms that ask the network for different numbers of t.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from nelbo.jobs.run import Run
from nelbo.metrics import score_likelihood
from nelbo.models.base import LikelihoodModel


def main(argv: Sequence[str] | None = None) -> None:
    """Score with every form, print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--replicates", type=int, default=16)
    parser.add_argument(
        "--timesteps", type=int, nargs="*", help="t per estimate; the family's default and all, if left out"
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    run = Run(args.run)
    images, model = run.dataset.split(args.split)[: args.limit], run.model("ema", args.device)
    assert isinstance(model, LikelihoodModel)
    asked = args.timesteps or [k for k in (model.default_timesteps, model.all_timesteps) if k is not None]
    table = Table(title=f"{len(images)} images of {args.split}, {args.replicates} replicates")
    for name in ("form", "evaluations E", "bits/dim", "± s.e. (mc)", "variance V, nats²", "V·E", "of denoising's"):
        table.add_column(name, justify="left" if name == "form" else "right")
    base: float | None = None
    for name, form in model.forms.items():
        for timesteps in asked[-1:] if form.whole else asked:
            score = score_likelihood(
                model, images, timesteps=timesteps, replicates=args.replicates, form=name, seed=len(name)
            )
            evaluations = form.evaluations(timesteps)
            variance = float(score.estimates().var(1).mean())
            base = base or variance * evaluations
            table.add_row(
                name,
                str(evaluations),
                f"{score.bits():.4f}",
                f"{score.stderr_mc():.4f}",
                f"{variance:.4g}",
                f"{variance * evaluations:.4g}",
                f"{variance * evaluations / base:.3g}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
