"""What earlier measurements say of a run's samples, in one line."""

from __future__ import annotations

from nelbo.jobs._protocol import kept_results, widest
from nelbo.jobs.progress import progress_of
from nelbo.jobs.run import Run
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.report.results import Evaluation, Score


def quality_line(run: Run, model: GenerativeModel) -> str:
    """The bound of test images, and how readable samples are, from RUN/scores; or the commands that measure them.

    Args:
        run: the run; its results with the latest EMA weights are used.
        model: its model.
    """
    drawn = sample_words(run)
    if not isinstance(model, LikelihoodModel):
        return drawn
    kind = next(iter(model.forms.values())).kind
    score = widest(kept_results(run, "test", Score, kind))
    if score is None or score.bits_per_dim is None:
        return f"{of_training(run)} ('nelbo score {run.path}'); {drawn}"
    return f"{kind} {score.bits_per_dim:.4f} bits/dim on {score.n:,} test images; {drawn}"


def of_training(run: Run) -> str:
    """What its last preview says of the bound, if the training has come to one."""
    val = progress_of(run.path).val
    if not val:
        return "bits/dim unknown"
    _, bits, stderr = val[-1]
    return f"about {bits:.2f} ± {stderr:.2f} bits/dim on val in training"


def sample_words(run: Run) -> str:
    """How close the run's samples are to test images."""
    evaluations = kept_results(run, "test", Evaluation, "samples")
    drawn = max(evaluations, key=lambda each: (each.n, each.samples), default=None)
    if drawn is None:
        return f"quality of samples unknown ('nelbo evaluate {run.path}')"
    name, distance = next(iter(drawn.quality.items()))
    found = f"{drawn.samples:,} samples ({drawn.sampling}) have {name} {distance.value:.3g}"
    if drawn.modes is None or drawn.modes.readable_images == 0:
        return found
    share = drawn.modes.readable / drawn.modes.readable_images
    return f"{found} and are {share:.3f} as readable as images"
