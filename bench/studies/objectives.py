"""The effect of each setting of a DDPM, with one factor varied at a time. Writes docs/objectives.md.

NELBO_DATA=… make objectives          (300 steps for each of 12 rows, and two more seeds for the best two)
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import nelbo

DOCS = Path(__file__).parents[2] / "docs"
BATCH = 64
BASE = {"reverse_variance": "beta_tilde"}


class Row(NamedTuple):
    """One row of the table: the varied factor, and its value."""

    factor: str
    name: str
    options: dict[str, Any]


ROWS = (
    Row("none", "the base: hybrid, v, sigmoid schedule, σ² = β̃", {}),
    Row("objective", "L_simple", {"objective": "simple"}),
    Row("objective", "w = min(SNR, 5)", {"objective": "min_snr"}),
    Row("objective", "w = max(SNR, 1)", {"objective": "max_snr"}),
    Row("objective", "sigmoid weighting", {"objective": "sigmoid"}),
    Row("objective", "the bound (L_vlb, t by importance)", {"objective": "bound"}),
    Row("objective", "L_hybrid: L_simple, σ² learned", {"objective": "simple", "reverse_variance": "learned"}),
    Row("variance", "hybrid, σ² learned", {"reverse_variance": "learned"}),
    Row("parameterisation", "ε", {"predict": "eps"}),
    Row("parameterisation", "x_0", {"predict": "x0"}),
    Row("schedule", "linear", {"schedule": "linear"}),
    Row("schedule", "cosine", {"schedule": "cosine"}),
)

PAGE = """# The effect of each setting of a DDPM

Each row has {steps:,} steps of {batch} images of {data}, with one factor varied, and is scored on the first {n:,}
images of `val` with the same noise. The numbers are bits/dim ± the standard error over these images; for the best
two, the mean ± the standard deviation over three seeds. After so few steps, the order shows the speed of learning and
not the final results.

| factor | | bits/dim | ± s.e. | minus the base | ± paired s.e. |
| --- | --- | --- | --- | --- | --- |
{rows}

| the best two, seeds 0, 1, 2 | bits/dim | mean ± s.d. |
| --- | --- | --- |
{best}

"Hybrid, σ² learned" is the default of `nelbo train ddpm`. The weights w are on ‖x_0 − x̂_0‖²;
`nelbo.diffusion.objectives` has the formula of each. Differences are paired, with the same images and noise, so their
error is much smaller than that of either number. The row for ε shows the effect of a division by a small √ᾱ on a
network after little training: a few images cost it thousands of bits.

`make objectives` writes this page.
"""


def train(row: Row, seed: int, asked: argparse.Namespace) -> Path:
    """The run of one row, trained if it does not exist."""
    name = "-".join([*(str(value) for value in row.options.values()), str(seed)])
    run = nelbo.train(
        "ddpm",
        asked.data,
        out=asked.runs / name,
        steps=asked.steps,
        batch_size=BATCH,
        seed=seed,
        resume=True,
        **(BASE | row.options),
    )
    return run.path


def bits(score: nelbo.Score) -> float:
    """The total in bits/dim."""
    assert score.bits_per_dim is not None
    return score.bits_per_dim


def main() -> None:
    """Train, score, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--limit", type=int, default=500)
    asked = parser.parse_args()

    def score(run: Path, baseline: Path | None = None) -> nelbo.Score:
        return nelbo.score(run, split="val", limit=asked.limit, timesteps=4, baseline=baseline)

    base, lines, found = train(ROWS[0], 0, asked), [], []
    for row in ROWS:
        run = train(row, 0, asked)
        result = score(run, None if run == base else base)
        found.append((bits(result), row))
        paired = f"{result.baseline.difference:+.4f} | {result.baseline.stderr:.4f}" if result.baseline else "0 | "
        cells = [row.factor, row.name, f"{result.bits_per_dim:.4f}", f"{result.stderr:.4f}", paired]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    best = []
    for first, row in sorted(found, key=lambda pair: pair[0])[:2]:
        values = [first, *(bits(score(train(row, seed, asked))) for seed in (1, 2))]
        shown = ", ".join(f"{value:.4f}" for value in values)
        best.append(f"| {row.name} | {shown} | {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} |")
        print(best[-1], flush=True)
    page = PAGE.format(
        steps=asked.steps, batch=BATCH, data=asked.data, n=result.n, rows="\n".join(lines), best="\n".join(best)
    )
    (DOCS / "objectives.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
