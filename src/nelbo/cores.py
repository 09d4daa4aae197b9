"""One compute thread for each core, bound to it while it computes; no more threads than a container may run.

The threads of an operation wait for each other at its end. Beside other work the system may run two of them on one
core, and then each operation lasts until the core's time slices have passed (bench/RESULTS.md, "Beside other work"). A
thread that is bound to a core waits only for what else that core does. Python's own thread is bound only inside
:func:`on_own_cores`, because a new thread inherits the cores of the thread that starts it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from nelbo.limits import cores

SPIN = "10000"
"""Turns for which a thread waits without sleeping, some 10 µs: more would take the core from other work."""
CHOSEN = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables with which the user or a launcher settles it."""
GPU, MAPS, TOPOLOGY = Path("/dev/nvidiactl"), Path("/proc/self/maps"), Path("/sys/devices/system/cpu")
ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""The logical cores that the process may run on."""
settled = False
"""Whether :func:`settle_threads` has been called, and the user has not settled it: a library leaves threads alone."""


def settle_threads(environ: MutableMapping[str, str]) -> None:
    """Let :func:`on_own_cores` bind threads, and set their number in a container, unless the user has settled it.

    Args:
        environ: the environment, before torch is imported.
    """
    global settled
    if not ALLOWED or GPU.exists() or any(name in environ for name in CHOSEN):
        return
    settled = True
    environ.setdefault("GOMP_SPINCOUNT", SPIN)
    if cores() < len(ALLOWED):
        environ["OMP_NUM_THREADS"] = str(math.ceil(cores()))


@contextmanager
def on_own_cores() -> Iterator[None]:
    """A context in which each compute thread has a core of its own, if there is a thread for each core.

    It changes nothing without :func:`settle_threads`, in a container with less processor time than cores, in another
    thread than the main one, and without GNU's OpenMP (Linux).
    """
    here = settled and threading.current_thread() is threading.main_thread()
    own = bound_core(openmp_threads()) if here else None
    if own is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@functools.cache
def bound_core(threads: int) -> frozenset[int] | None:
    """Bind the threads that help the main one, each to a core; returns the main thread's core, or None."""
    places = physical_cores(ALLOWED)
    if len(places) != threads:
        places = [frozenset({core}) for core in sorted(ALLOWED)]
    if threads < 2 or len(places) != threads or cores() < len(ALLOWED):
        return None
    first = os.getpid() % threads  # so that the main threads of several runs are on several cores
    places = places[first:] + places[:first]
    library = openmp()
    assert library is not None  # it has told the number of threads

    def bind(_: int | None) -> None:
        number = library.omp_get_thread_num()
        if number:
            os.sched_setaffinity(0, places[number])

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(bind)
    library.GOMP_parallel(callback, None, ctypes.c_uint(threads), ctypes.c_uint(0))
    return places[0]


def physical_cores(allowed: set[int]) -> list[frozenset[int]]:
    """The allowed logical cores, grouped by physical core."""
    found = set()
    for core in allowed:
        siblings = {core}
        with suppress(OSError, ValueError):
            for part in (TOPOLOGY / f"cpu{core}/topology/thread_siblings_list").read_text().strip().split(","):
                first, _, last = part.partition("-")
                siblings |= set(range(int(first), int(last or first) + 1))
        found.add(frozenset(siblings & allowed))
    return sorted(found, key=min)


def openmp_threads() -> int:
    """The number of threads of an operation; 0 without GNU's OpenMP."""
    library = openmp()
    return 0 if library is None else int(library.omp_get_max_threads())


@functools.cache
def openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP as this process has loaded it with torch, or None."""
    with suppress(OSError):
        for line in MAPS.read_text().splitlines():
            path = line.split(maxsplit=5)[5:]
            if path and "libgomp" in Path(path[0]).name:
                return ctypes.CDLL(path[0])
    return None


def leave_core() -> None:
    """Let the calling thread run on every core, for a thread that is started inside of :func:`on_own_cores`."""
    with suppress(OSError):
        if ALLOWED:
            os.sched_setaffinity(0, ALLOWED)
