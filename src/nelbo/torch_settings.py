"""Settings of torch that are of the whole process. One thread at a time has them changed, and puts them back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEFAULT_DTYPE, NUM_THREADS = threading.RLock(), threading.RLock()
"""Held while the setting is another. A thread that needs it unchanged holds the lock too."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A context in which torch makes floating-point tensors of another dtype, in every thread."""
    import torch

    with DEFAULT_DTYPE:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """A context in which an operation has this number of threads."""
    import torch

    with NUM_THREADS:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
