"""Arrays of images in NumPy's files: .npy, and .npz by its keys. Nothing pickled is read."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from nelbo.data.dataset import SPLITS
from nelbo.data.raw import ALL, Part, Pixels, Raw, named_labels
from nelbo.data.room import memory
from nelbo.errors import InputError

Array = NDArray[np.generic]

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ArithmeticError,
    EOFError,
    RuntimeError,
    ValueError,
)
"""What a damaged archive makes zipfile raise."""
DEFLATE_MOST = 1032  # deflate cannot compress further than this, so a member that claims more is a lie


def read_npy(path: Path) -> Raw:
    """Read an array of images.

    Args:
        path: a ``.npy`` file of uint8 or bool, ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, 1 to 4 channels.

    Returns:
        its images; bool has 2 levels.

    Raises:
        InputError: it is damaged, pickled, or not an array of images.
    """
    where = str(path)
    try:
        with path.open("rb") as stream:
            check_header(stream, os.fstat(stream.fileno()).st_size, where)
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from None
    return Raw(path.stem, where, {ALL: Part(as_images(values, where))}, levels=levels_of([values]))


def read_npz(path: Path) -> Raw:
    """Read an archive of arrays.

    Args:
        path: a ``.npz`` file with ``images`` and perhaps ``labels``; or ``x_train``, ``x_test`` and perhaps ``x_val``,
            each perhaps with its ``y_``; or exactly one array.

    Returns:
        its images, in splits if it names them.

    Raises:
        InputError: it is damaged, pickled, or has other keys.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys = choose(list(sizes), where)
            used = [key for pair in keys.values() for key in pair if key is not None]
            arrays = {key: read_member(archive, sizes[key], f"{where} ({key})") for key in used}
    except InputError:
        raise
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from None
    except DAMAGED as error:
        raise InputError(where, f"is truncated or corrupt ({error}); get it again") from None
    unused = sorted(set(sizes) - set(used))
    notes = (f"not used: {', '.join(unused)}",) if unused else ()
    parts, classes = label_parts(arrays, keys, where)
    levels = levels_of([arrays[images] for images, _ in keys.values()])
    return Raw(path.stem, where, parts, classes, levels, notes)


def choose(names: list[str], where: str) -> dict[str, tuple[str, str | None]]:
    """Which keys are images and which their labels: split → (images, labels or None)."""

    def pair(images: str, labels: str) -> tuple[str, str | None]:
        return images, labels if labels in names else None

    if "images" in names:
        return {ALL: pair("images", "labels")}
    if "x_train" in names and "x_test" in names:
        return {split: pair(f"x_{split}", f"y_{split}") for split in SPLITS if f"x_{split}" in names}
    if len(names) == 1:
        return {ALL: (names[0], None)}
    listed = ", ".join(sorted(names)) or "no arrays"
    raise InputError(where, f"has {listed}; name them images (and labels), or x_train, y_train, x_test, y_test")


def label_parts(
    arrays: Mapping[str, Array], keys: Mapping[str, tuple[str, str | None]], where: str
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Images with their labels as indices into the classes of all splits."""
    parts = {split: Part(as_images(arrays[images], f"{where} ({images})")) for split, (images, _) in keys.items()}
    found = {split: arrays[labels].reshape(-1) for split, (_, labels) in keys.items() if labels is not None}
    if not found:
        return parts, ()
    if len(found) < len(parts):
        raise InputError(where, "has labels for some splits only; give a y_ for each x_, or none")
    for split, values in found.items():
        if values.dtype.kind not in "iubUS" or len(values) != len(parts[split].images):
            images, key = keys[split]
            problem = f"{len(values)} of type {values.dtype} for {len(parts[split].images)} images"
            raise InputError(f"{where} ({key})", f"are not one whole number or name for each of {images}: {problem}")
    index, classes = named_labels(np.concatenate(list(found.values())))
    pieces = np.split(index, np.cumsum([len(values) for values in found.values()])[:-1])
    return {split: Part(parts[split].images, piece) for split, piece in zip(found, pieces, strict=True)}, classes


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Array:
    """One array of an archive, after its sizes have been found to agree."""
    if info.file_size > DEFLATE_MOST * (info.compress_size + 1):
        raise InputError(where, f"claims {info.file_size} bytes, which cannot be in this archive; get it again")
    if info.flag_bits & 1:
        raise InputError(where, "is encrypted; save it without a password")
    if info.file_size > memory():
        raise InputError(where, "does not fit into memory; save it as .npy, of which no more is read than is needed")
    with archive.open(info) as stream:
        check_header(cast(BinaryIO, stream), info.file_size, where)
    with archive.open(info) as stream:
        try:
            return cast(Array, np.lib.format.read_array(cast(Any, stream), allow_pickle=False))
        except ValueError as error:
            raise InputError(where, f"is truncated or corrupt ({error}); save it again") from None


def check_header(stream: BinaryIO, size: int, where: str) -> None:
    """Compare what a .npy header claims with the bytes that are there, before anything is allocated."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format is for records")
        shape, _, dtype = read[version](stream)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no header"
        raise InputError(where, f"is not an array of numbers ({reason}); save it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(where, "holds pickled Python objects, which are never read; save an array of dtype uint8")
    claimed, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(length < 0 for length in shape) or claimed != present:
        problem = f"its header claims {claimed} bytes of {dtype} and there are {present}"
        raise InputError(where, f"is truncated or corrupt: {problem}; save it again")


def as_images(values: Array, where: str) -> Pixels:
    """An array as uint8, ``(N, C, H, W)``, by what its shape allows; bool becomes 0 and 1."""
    if values.dtype.kind == "f":
        raise InputError(where, f"is {values.dtype}; for values in [0, 1] save (x*255).round().astype('uint8')")
    if values.dtype not in (np.uint8, np.bool_):
        raise InputError(where, f"is {values.dtype}; for values from 0 to 255 save x.astype('uint8')")
    pixels = cast(Pixels, values.view(np.uint8))
    shape = " x ".join(map(str, values.shape))
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim != 4:
        raise InputError(where, f"has the shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    first, last = 1 <= pixels.shape[1] <= 4, 1 <= pixels.shape[3] <= 4
    if first and last:
        raise InputError(where, f"has the shape {shape}, where channels may come first or last; drop or pad an axis")
    if not first and not last:
        raise InputError(where, f"has the shape {shape}, without an axis of 1 to 4 channels; drop or merge channels")
    return pixels if first else pixels.transpose(0, 3, 1, 2)


def levels_of(arrays: list[Array]) -> int:
    """2 if all arrays are bool, else 256."""
    return 2 if all(values.dtype == np.bool_ for values in arrays) else 256
