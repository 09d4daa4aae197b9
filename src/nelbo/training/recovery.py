"""Recovery: return to the last checkpoint if the loss is not finite; continue without a compiler that fails."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nelbo.models.base import LikelihoodModel
from nelbo.training.checkpoint import read_checkpoint, shared
from nelbo.training.compiling import give_up
from nelbo.training.folders import latest_checkpoint
from nelbo.training.session import Session
from nelbo.training.shards import to_local

MOST_ROLLBACKS = 5
"""How often a run can return to its last checkpoint, each time with half of the learning rate, before it fails."""


def require_finite(session: Session, loss: Tensor) -> None:
    """Check that the loss and all weights are finite, before they are used for samples, logs or checkpoints.

    Raises:
        FloatingPointError: the loss or a weight is not finite.
    """
    weights = torch.stack([to_local(p.detach()).isfinite().all() for p in session.model.parameters()])
    (wrong,) = session.team.greatest([not (bool(loss.isfinite()) and bool(weights.all()))])
    if wrong:
        what = "a weight" if bool(loss.isfinite()) else "the loss"
        raise FloatingPointError(f"{what} is not finite at step {session.step}")


def describe_nonfinite(session: Session, losses: Sequence[Tensor]) -> str:
    """The images whose loss is not finite, with the terms of their bound; the gradient if all losses are finite.

    Args:
        session: the session before the failed step.
        losses: for each part of the batch, the loss of each of this process's images, shape (b,).
    """
    parts = zip(losses, session.parts, strict=True)
    whole = torch.cat([session.team.together(each, part.total) for each, part in parts])
    wrong = (~whole.isfinite()).nonzero()[:, 0].cpu()
    if not len(wrong):
        return "a gradient is not finite"
    rows = sorted(session.batches.rows(session.step)[wrong.numpy()].tolist())
    named = ", ".join(map(str, rows[:5])) + ", …" * (len(wrong) > 5)
    return f"the loss of training images {named} is not finite{nonfinite_terms(session, wrong.tolist())}"


@torch.no_grad()
def nonfinite_terms(session: Session, places: list[int]) -> str:
    """The terms of the bound that are not finite on the images in these places, in brackets."""
    if session.sharded or not isinstance(session.model, LikelihoodModel):
        return ""
    terms = session.model.bound(session.batch(places)).terms.items()
    names = ", ".join(name for name, value in terms if not bool(value.isfinite().all()))
    return f" ({names})" if names else ""


def roll_back(session: Session, error: FloatingPointError) -> None:
    """Return to the last checkpoint, with half of the learning rate.

    Raises:
        FloatingPointError: there is no checkpoint yet, or the run has returned too often.
    """
    folder = latest_checkpoint(session.run_folder) if session.team.main else None
    checkpoint = shared(session.team, None if folder is None else lambda: read_checkpoint(folder))
    if checkpoint is None or session.rollbacks >= MOST_ROLLBACKS:
        often = f", after {session.rollbacks} returns to a checkpoint" if session.rollbacks else ""
        raise FloatingPointError(f"{error}{often}; try a lower `lr`, with `resume`") from None
    rollbacks, seconds = session.rollbacks + 1, session.seconds
    session.zero_grad()
    session.restore(checkpoint, folder or session.run_folder)
    session.rollbacks, session.seconds = rollbacks, seconds
    session.news.append(f"{error}; back to step {session.step:,}, with the learning rate times {0.5**rollbacks:g}")


def run_uncompiled(session: Session, error: Exception) -> None:
    """Continue without torch.compile after its failure; no step has been taken."""
    give_up(session.model)
    session.compiler_errors = ()
    session.zero_grad()
    why, *_ = str(error).replace("raised:\n", "raised ").splitlines() or [type(error).__name__]
    session.news.append(f"torch.compile fails here ({why}); training continues without it")
