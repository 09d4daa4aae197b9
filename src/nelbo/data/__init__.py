"""Images in, uint8, in named splits.

One function, :func:`load`, turns what a user writes after ``data`` into a :class:`Dataset`: a known name, a folder of
images, a ``.npy``, ``.npz`` or IDX file, ``hf:NAME``, or what a reader of another package makes a :class:`Raw` of.
"""

from __future__ import annotations

from nelbo.data.dataset import SPLITS, Dataset
from nelbo.data.loading import NAMES, load
from nelbo.data.raw import Part, Raw
from nelbo.options import DataOptions

__all__ = ["NAMES", "SPLITS", "DataOptions", "Dataset", "Part", "Raw", "load"]
