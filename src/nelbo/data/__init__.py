"""Image data sets: uint8 images in named splits.

:func:`load` turns a SPEC into a :class:`Dataset`: a known name, a folder of images, a ``.npy``, ``.npz`` or IDX file,
``hf:NAME``, or the :class:`Raw` of a reader of another package.
"""

from __future__ import annotations

from nelbo.data.dataset import SPLITS, Dataset
from nelbo.data.loading import NAMES, load
from nelbo.data.raw import Part, Raw
from nelbo.options import DataOptions

__all__ = ["NAMES", "SPLITS", "DataOptions", "Dataset", "Part", "Raw", "load"]
