"""Image arrays in NumPy's files: .npy, and .npz by its keys. Pickled arrays are never read."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from nelbo.data.axes import Array, as_images, is_ambiguous
from nelbo.data.keys import LEVELS, Keys, choose
from nelbo.data.raw import ALL, Part, Raw, named_labels
from nelbo.errors import InputError
from nelbo.limits import memory
from nelbo.options import Layout

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
"""The exceptions of zipfile for a damaged archive."""
DEFLATE_MOST = 1032  # the largest compression ratio of deflate; a member that claims more is forged


def read_npy(path: Path, layout: Layout | None = None) -> Raw:
    """Read an array of images.

    Args:
        path: a ``.npy`` file of uint8 or bool, ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, 1 to 4 channels.
        layout: the meaning of its axes, if the shape is ambiguous.

    Returns:
        its images; bool has 2 levels.

    Raises:
        InputError: the file is damaged, pickled, or not an array of images.
    """
    where = str(path)
    try:
        with path.open("rb") as stream:
            check_header(stream, os.fstat(stream.fileno()).st_size, where)
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from None
    return Raw(path.stem, where, {ALL: Part(as_images(values, where, layout))}, levels=levels_of([values]))


def read_npz(path: Path, layout: Layout | None = None) -> Raw:
    """Read an archive of arrays.

    Args:
        path: a ``.npz`` file with ``images``, and optionally ``labels`` and ``levels``; or ``x_train``, and optionally
            ``x_val``, ``x_test`` and their ``y_``; or ``train_images``, ``train_labels`` and so on; or exactly one
            array that can be images.
        layout: the meaning of the images' axes, if the shape is ambiguous.

    Returns:
        its images, in the splits of the keys.

    Raises:
        InputError: the file is damaged, pickled, or has other keys.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            shapes = {key: shape_of(archive, info) for key, info in sizes.items()}
            levels = stated_levels(archive, sizes, shapes, where)
            keys = choose({key: shape for key, shape in shapes.items() if levels is None or key != LEVELS}, where)
            used = [key for pair in keys.values() for key in pair if key is not None]
            arrays = {key: read_member(archive, sizes[key], f"{where} ({key})") for key in used}
    except InputError:
        raise
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror or error}") from None
    except DAMAGED as error:
        raise InputError(where, f"is truncated or corrupt ({error}); download it again") from None
    unused = sorted(set(sizes) - set(used) - ({LEVELS} if levels else set()))
    notes = (f"not used: {', '.join(unused)}",) if unused else ()
    images = [arrays[key] for key, _ in keys.values()]
    layout = layout or common_layout(images, keys, arrays)
    parts, classes = label_parts(arrays, keys, where, layout)
    return Raw(path.stem, where, parts, classes, levels or levels_of(images), notes)


def shape_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, ...] | None:
    """The shape in a member's header, or None if its header cannot be read."""
    if info.file_size > min(memory(), DEFLATE_MOST * (info.compress_size + 1)):
        return None
    try:
        with archive.open(info) as stream:
            return check_header(cast(BinaryIO, stream), info.file_size, info.filename)
    except (InputError, OSError, *DAMAGED):
        return None


def stated_levels(
    archive: zipfile.ZipFile,
    sizes: Mapping[str, zipfile.ZipInfo],
    shapes: Mapping[str, tuple[int, ...] | None],
    where: str,
) -> int | None:
    """The number of levels in the archive, which ``nelbo sample`` writes; None without it."""
    if shapes.get(LEVELS) not in ((), (1,)):
        return None
    value = read_member(archive, sizes[LEVELS], f"{where} ({LEVELS})").reshape(-1)[0]
    if not isinstance(value, np.integer) or not 2 <= value <= 256:
        raise InputError(f"{where} ({LEVELS})", f"is {value}, not an integer from 2 to 256; correct it")
    return int(value)


def common_layout(images: Sequence[Array], keys: Keys, arrays: Mapping[str, Array]) -> Layout | None:
    """``nhw`` if some array of three axes must be grey images, by its shape or by a label for each image; else None."""
    if any(values.ndim != 3 for values in images):
        return None
    counted = any(label is not None and arrays[label].size == len(arrays[key]) > 1 for key, label in keys.values())
    return "nhw" if counted or any(not is_ambiguous(values) for values in images) else None


def label_parts(
    arrays: Mapping[str, Array], keys: Keys, where: str, layout: Layout | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The images of each split, with labels as indices into the classes of all splits."""
    parts = {
        split: Part(as_images(arrays[images], f"{where} ({images})", layout)) for split, (images, _) in keys.items()
    }
    found = {split: arrays[labels].reshape(-1) for split, (_, labels) in keys.items() if labels is not None}
    if not found:
        return parts, ()
    if len(found) < len(parts):
        bare = ", ".join(images for images, labels in keys.values() if labels is None)
        raise InputError(where, f"has labels for some splits only, none for {bare}; add them, or leave out all labels")
    for split, values in found.items():
        if values.dtype.kind not in "iubUS" or len(values) != len(parts[split].images):
            images, key = keys[split]
            problem = f"{len(values)} of type {values.dtype} for {len(parts[split].images)} images"
            raise InputError(
                f"{where} ({key})",
                f"are not one integer or name for each of {images}: {problem}; leave it out of the file",
            )
    index, classes = named_labels(np.concatenate(list(found.values())))
    pieces = np.split(index, np.cumsum([len(values) for values in found.values()])[:-1])
    return {split: Part(parts[split].images, piece) for split, piece in zip(found, pieces, strict=True)}, classes


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Array:
    """One array of an archive, after a check of its sizes."""
    if info.file_size > DEFLATE_MOST * (info.compress_size + 1):
        raise InputError(where, f"claims {info.file_size} bytes, which cannot be in this archive; download it again")
    if info.flag_bits & 1:
        raise InputError(where, "is encrypted; save it without a password")
    if info.file_size > memory():
        raise InputError(where, "does not fit into memory; save it as .npy, which is read in parts")
    with archive.open(info) as stream:
        check_header(cast(BinaryIO, stream), info.file_size, where)
    with archive.open(info) as stream:
        try:
            return cast(Array, np.lib.format.read_array(cast(Any, stream), allow_pickle=False))
        except ValueError as error:
            raise InputError(where, f"is truncated or corrupt ({error}); save it again") from None


def check_header(stream: BinaryIO, size: int, where: str) -> tuple[int, ...]:
    """Compare the size in a .npy header with the size of the file, before memory is allocated.

    Returns:
        the shape in the header.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format is for structured arrays")
        shape, _, dtype = read[version](stream)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no header"
        raise InputError(where, f"is not an array of numbers ({reason}); save it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(where, "contains pickled Python objects, which are never read; save an array of dtype uint8")
    claimed, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if any(length < 0 for length in shape) or claimed != present:
        problem = f"its header claims {claimed} bytes of {dtype}, but there are {present}"
        raise InputError(where, f"is truncated or corrupt: {problem}; save it again")
    return shape


def levels_of(arrays: list[Array]) -> int:
    """2 if all arrays are bool, else 256."""
    return 2 if all(values.dtype == np.bool_ for values in arrays) else 256
