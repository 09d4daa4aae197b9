"""When to write a checkpoint and when to stop, agreed between processes with their own clocks and signals."""

from __future__ import annotations

from nelbo.training.folders import latest_checkpoint, step_of
from nelbo.training.session import Session
from nelbo.training.signals import Interrupted

CHECKPOINT_SECONDS, SOONEST, CHECKPOINT_SHARE = 45.0, 10.0, 0.02
"""The longest and shortest seconds between two checkpoints; between them, writing takes this fraction of the time."""


def agree(session: Session) -> tuple[bool, int]:
    """Whether a checkpoint is due, and a process's signal or 0; the same on every process.

    It also equalises the training time, and the reserve of a run with ``minutes``.
    """
    now, writing = session.clock(), session.writing
    late = now - session.saved - min(CHECKPOINT_SECONDS, max(SOONEST, writing / CHECKPOINT_SHARE))
    of_main = [late, session.after + writing] if session.team.main else [0.0, 0.0]
    agreed = session.team.greatest([now - session.started, session.signals.signum, *of_main])
    session.seconds, signum, late, session.reserve = agreed
    minutes = session.options.minutes
    if minutes is not None and session.progress >= 1.0:
        session.seconds = max(session.seconds, 60.0 * minutes)  # the reserve is used: the run is done
    return bool(signum or late > 0 or session.progress >= 1.0), int(signum)


def write_due_checkpoint(session: Session, signum: int) -> int:
    """Write the due checkpoint; returns a signal that a process received until its end, or 0.

    A checkpoint that cannot be written sets ``trouble`` and is tried again, after a signal at once.

    Raises:
        OSError: it cannot be written, and no later one will be.
    """
    began = session.clock()
    session.keep(must=bool(signum) or session.progress >= 1.0)
    session.saved = session.clock()
    session.writing = session.saved - began
    latest, trouble = session.team.greatest([session.signals.signum, session.trouble is not None])
    if latest and trouble:
        session.keep(must=True)
    return int(latest)


def stop(session: Session, signum: int) -> None:
    """End training after a signal, when everything that can be saved is saved.

    Raises:
        Interrupted: always.
    """
    session.team.greatest([0.0])  # launchers end the main process, which saves, when the others have ended
    if not session.given_up:
        raise Interrupted(signum, session.step)
    folder = latest_checkpoint(session.run_folder)
    raise Interrupted(signum, None if folder is None else step_of(folder), session.step)
