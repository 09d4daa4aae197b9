"""Trainings: processes of their own, which go on when the studio ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nelbo.config.names import CONFIG
from nelbo.errors import InputError
from nelbo.files import lock_holder
from nelbo.studio.safety import Folders

FREE = 64 * 2**20
"""Bytes that must be free before a training starts."""
TAIL = 4096
STOPPED = (None, 0, 130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Codes of a training that runs, or has ended as it should; the last two are of one that was stopped while starting."""


class Trainings:
    """The processes of ``nelbo train`` that were started here, and those that the system lists.

    Args:
        folders: where runs may be.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.started: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, family: str, out: Path, words: Sequence[str]) -> None:
        """Start ``nelbo train FAMILY --out OUT …`` in a session of its own, with its messages in OUT.log.

        Raises:
            InputError: a training is running there, or the disk is full.
            OSError: the log cannot be written.
        """
        if self.running(out):
            raise InputError(out.name, "is being trained already; wait for it, or stop it")
        free = shutil.disk_usage(out.parent).free
        if free < FREE:
            raise InputError(str(out.parent), f"the disk has only {free // 2**20} MiB left; make room first")
        command = [sys.executable, "-m", "nelbo", "train", family, f"--out={out}", *words]
        with self.folders.inside(log_of(out)).open("ab") as log:
            self.started[out] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def resume(self, run: Path, family: str, words: Sequence[str] = ()) -> None:
        """Continue a run from its last checkpoint."""
        self.folders.contained(run)
        if not (run / CONFIG).exists():
            raise InputError(run.name, "the run has vanished: it was moved or deleted; choose another")
        self.start(family, run, ["--resume", *words])

    def running(self, run: Path) -> bool:
        """Whether a process trains this run, started here or elsewhere."""
        own = self.started.get(run)
        return (own is not None and own.poll() is None) or lock_holder(run) is not None

    def beginning(self) -> list[Path]:
        """The runs that were started here, are running, and have no settings yet."""
        return [run for run, own in self.started.items() if own.poll() is None and not (run / CONFIG).exists()]

    def stop(self, run: Path) -> None:
        """Ask the training of a run to write a checkpoint and end.

        Raises:
            InputError: there is none, or it was started elsewhere and its process is unknown.
        """
        own = self.started.get(run)
        pid = own.pid if own is not None and own.poll() is None else lock_holder(run)
        if pid is None:
            raise InputError(run.name, "no training runs there")
        if pid == 0:
            raise InputError(run.name, "was started elsewhere; stop it there with Ctrl-C")
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            raise InputError(run.name, "the training has ended") from None
        except PermissionError:
            raise InputError(run.name, "belongs to another user; stop it there with Ctrl-C") from None

    def ended_badly(self, run: Path) -> str | None:
        """The last line of the log of a training that was started here and has failed, else None."""
        own = self.started.get(run)
        code = None if own is None else own.poll()
        if code in STOPPED:
            return None
        lines = messages(run)
        return lines[-1] if lines else f"it ended with code {code}"


def log_of(run: Path) -> Path:
    """The file with the messages of a run's trainings, beside the run."""
    return run.with_name(f"{run.name}.log")


def messages(run: Path) -> list[str]:
    """The last lines that the training of a run has written; none without a log."""
    try:
        with log_of(run).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]
