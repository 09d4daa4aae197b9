"""How far a run is, and the learning rate that it has there."""

from __future__ import annotations

from nelbo.options import TrainingOptions


def progress_at(options: TrainingOptions, step: int, seconds: float, reserve: float = 0.0) -> float:
    """How much of the run is done, in [0, 1].

    Args:
        options: the recipe; one of ``minutes`` and ``steps`` is set.
        step: how many steps have been taken.
        seconds: of training so far.
        reserve: seconds that a run by the clock keeps for what comes after its last step; at most half of it.
    """
    if options.steps is not None:
        return min(1.0, step / options.steps)
    total = 60.0 * (options.minutes or 0.0)
    return min(1.0, seconds / (total - min(reserve, 0.5 * total)))


def learning_rate(options: TrainingOptions, step: int, progress: float, rollbacks: int = 0) -> float:
    """A linear rise over ``warmup`` steps, then constant, then a linear fall to zero over the last ``decay``.

    Args:
        options: the recipe.
        step: how many steps have been taken before this one.
        progress: how much of the run is done.
        rollbacks: how often the run went back to a checkpoint, each time to half of the rate.
    """
    rise = min(1.0, (step + 1) / (options.warmup + 1))
    fall = min(1.0, (1.0 - progress) / options.decay) if options.decay else 1.0
    return options.lr * rise * fall * 0.5**rollbacks
