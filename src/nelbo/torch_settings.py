"""Settings of torch that are of the whole process. One thread at a time has them changed, and puts them back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

DEFAULT_DTYPE, NUM_THREADS = threading.RLock(), threading.RLock()
"""Held while the setting is another. A thread that needs it unchanged holds the lock too."""
T = TypeVar("T")


def default_dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    """A context in which torch makes floating-point tensors of another dtype, in every thread."""
    import torch

    return changed(DEFAULT_DTYPE, torch.get_default_dtype, torch.set_default_dtype, dtype)


def num_threads(count: int) -> AbstractContextManager[None]:
    """A context in which an operation has this number of threads."""
    import torch

    return changed(NUM_THREADS, torch.get_num_threads, torch.set_num_threads, count)


@contextmanager
def changed(lock: threading.RLock, get: Callable[[], T], put: Callable[[T], object], value: T) -> Iterator[None]:
    """A context with another value of a setting, for one thread at a time."""
    with lock:
        before = get()
        put(value)
        try:
            yield
        finally:
            put(before)
