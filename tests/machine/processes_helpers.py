"""Several processes on one machine, with the environment of a launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from machine_helpers import Answer

PATIENCE = 300.0
"""Seconds after which a test gives up on a process."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(count: int, *words: str | Path, code: str | None = None, **environment: str) -> list[subprocess.Popen[str]]:
    """So many processes of one command line, number 0 first; ``code`` may change what is run."""
    program = ["-m", "nelbo"] if code is None else ["-c", code]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count), **environment}
    return [
        subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **given, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[Answer]:
    """How each of them ended."""
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        answers.append(Answer(process.returncode, out, err))
    return answers


def shared(count: int, *words: str | Path) -> Answer:
    """How the main process of so many ended; all of them have to end well, and the others in silence."""
    main, *others = ended(started(count, *words))
    assert main.code == 0, main.err
    assert all(other == Answer(0, "", "") for other in others), others
    return main
