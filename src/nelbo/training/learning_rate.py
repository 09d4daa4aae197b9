"""The progress of a run, and the learning rate there."""

from __future__ import annotations

from nelbo.options import TrainingOptions


def progress_at(options: TrainingOptions, step: int, seconds: float, reserve: float = 0.0) -> float:
    """The progress of the run, in [0, 1].

    Args:
        options: the training options, with ``minutes`` or ``steps``.
        step: steps taken.
        seconds: training time so far.
        reserve: seconds that a run with ``minutes`` keeps for work after its last step; at most half of the run.
    """
    if options.steps is not None:
        return min(1.0, step / options.steps)
    total = 60.0 * (options.minutes or 0.0)
    return min(1.0, seconds / (total - min(reserve, 0.5 * total)))


def learning_rate(options: TrainingOptions, step: int, progress: float, rollbacks: int = 0) -> float:
    """Linear warm-up over ``warmup`` steps, a constant rate, and linear decay to 0 over the last fraction ``decay``.

    Args:
        options: the training options.
        step: steps taken before this one.
        progress: the progress of the run, in [0, 1].
        rollbacks: how often the run went back to a checkpoint; each time halves the rate.
    """
    rise = min(1.0, (step + 1) / (options.warmup + 1))
    fall = min(1.0, (1.0 - progress) / options.decay) if options.decay else 1.0
    return options.lr * rise * fall * 0.5**rollbacks
