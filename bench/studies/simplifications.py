"""The cost of each simplification of the bound, for three training objectives. Writes docs/simplifications.md.

NELBO_DATA=… make simplifications          (400 steps for each, about ten minutes on two cores)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nelbo
from nelbo.models.sampling import SampleSettings
from nelbo.report import grid

DOCS = Path(__file__).parents[2] / "docs"
BATCH = 128
OBJECTIVES = {
    "simple": "L_simple (Ho et al. 2020 (14))",
    "bound": "the bound's own weights",
    "hybrid": "both (the default)",
}

PAGE = """# The cost of simplifications of the bound

Three runs of one network on {data}, which differ only in the objective: {steps:,} steps of {batch} images each.
Scores are in bits/dim on the first {n:,} test images.

| trained with | {terms} | total | ± s.e. |
| --- | {dashes} | --- | --- |
{rows}

The total without a term, for the run with L_simple:

| dropped | bits/dim printed | bits/dim hidden |
| --- | --- | --- |
{dropped}

- **The cluster term** is −ln P(c), the cost of the name of the image's cluster, which the network sees.
- **The prior term** is almost 0 if the schedule ends in noise. For a schedule that ends too early it is large.
  Therefore it is computed, and `nelbo info RUN` prints it for the run's own schedule.
- **The reconstruction term** is not negligible: without it, every model would seem better by that amount than any
  code based on it.
- **L_simple** replaces the bound's weights for better samples; its cost in bits is the difference of the totals. The
  default is the sum of the two objectives. After so few steps the samples differ little.

Samples from the same seeds ({sampler}):

| L_simple | the bound's own weights | both |
| --- | --- | --- |
| ![](images/objective-simple.png) | ![](images/objective-bound.png) | ![](images/objective-hybrid.png) |

`make simplifications` writes this page.
"""


def row(objective: str, score: nelbo.Score) -> str:
    """One run in the table."""
    cells = [OBJECTIVES[objective], *(f"{term.bits_per_dim:.4f}" for term in score.terms.values())]
    cells += [f"{score.bits_per_dim:.4f}", f"{score.stderr:.4f}"]
    return f"| {' | '.join(cells)} |"


def dropped(name: str, score: nelbo.Score) -> str:
    """The total without one term."""
    hidden, total = score.terms[name].bits_per_dim, sum(term.bits_per_dim for term in score.terms.values())
    return f"| {name} | {total - hidden:.4f} | {hidden:.2g} |"


def main() -> None:
    """Train, score, draw, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--runs", type=Path, default=Path("runs/simplifications"))
    parser.add_argument("--limit", type=int, default=2000)
    asked = parser.parse_args()
    scores = {}
    (DOCS / "images").mkdir(parents=True, exist_ok=True)
    for objective in OBJECTIVES:
        out = asked.runs / objective
        run = nelbo.train(
            "ddpm", asked.data, out=out, steps=asked.steps, batch_size=BATCH, resume=True, objective=objective
        )
        scores[objective] = nelbo.score(run.path, limit=asked.limit)
        model = nelbo.load(run.path)
        grid(model.sample(64), model.levels).save(DOCS / "images" / f"objective-{objective}.png", optimize=True)
        print(row(objective, scores[objective]), flush=True)
    simple = scores["simple"]
    page = PAGE.format(
        steps=asked.steps,
        batch=BATCH,
        data=asked.data,
        n=simple.n,
        rows="\n".join(row(objective, score) for objective, score in scores.items()),
        terms=" | ".join(simple.terms),
        dashes=" | ".join("---" for _ in simple.terms),
        dropped="\n".join(dropped(name, simple) for name in simple.terms if name != "diffusion"),
        sampler=model.inspector.describe_sampling(SampleSettings()).partition(":")[0],
    )
    (DOCS / "simplifications.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
