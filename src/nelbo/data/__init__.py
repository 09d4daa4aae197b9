"""Images in, uint8, in named splits.

One function, :func:`load`, turns what a user writes after ``data`` into a :class:`Dataset`: a known name, a folder of
images, a ``.npy``, ``.npz`` or IDX file, or ``hf:NAME``.
"""

from __future__ import annotations

from nelbo.data.dataset import SPLITS, Dataset
from nelbo.data.loading import NAMES, load

__all__ = ["NAMES", "SPLITS", "Dataset", "load"]
