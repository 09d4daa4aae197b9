"""One compute thread for each core, bound to it; no more threads than a container may run.

The threads of an operation wait for each other at its end. Beside other work the system may run two of them on one
core, and then each operation lasts until the core's time slices have passed: a training step on 2 busy cores took 6 to
18 times as long as on idle ones. A thread that is bound to a core waits only for what else that core does
(bench/RESULTS.md). OpenMP reads these settings when torch is imported, so the command line makes them before.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import MutableMapping
from pathlib import Path

from nelbo.limits import cores

SPIN = "10000"
"""Turns for which a thread waits without sleeping, some 10 µs: more would take the core from other work."""
CHOSEN = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables with which the user or a launcher settles it."""
GPU = Path("/dev/nvidiactl")
ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""The cores that the process may run on."""


def settle_threads(environ: MutableMapping[str, str]) -> None:
    """Set OpenMP's number of threads and bind them, unless the user has settled it or a GPU does the work.

    In a container with less processor time than its cores have, threads are as many as the time allows, and not bound.

    Args:
        environ: the environment, before torch is imported.
    """
    if not ALLOWED or GPU.exists() or any(name in environ for name in CHOSEN):
        return
    if cores() < len(ALLOWED):
        environ["OMP_NUM_THREADS"] = str(math.ceil(cores()))
    else:
        environ.update(OMP_PROC_BIND="true", OMP_PLACES="cores", GOMP_SPINCOUNT=SPIN)


def leave_core() -> None:
    """Let the calling thread run on every core; a new thread is bound like the thread that starts it."""
    with contextlib.suppress(OSError):
        if ALLOWED:
            os.sched_setaffinity(0, ALLOWED)
