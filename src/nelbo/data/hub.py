"""``hf:NAME``: a data set of the Hugging Face hub, through the optional package ``datasets``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nelbo.data.decode import BadImageError, header_of, opened, pixels_of, quiet_decoding
from nelbo.data.progress import progress_bar
from nelbo.data.raw import ALL, Part, Pixels, Raw
from nelbo.data.shaping import require_fit, shape_pixels, shaping_notes
from nelbo.data.storage import allocate
from nelbo.data.words import split_of
from nelbo.errors import InputError
from nelbo.options import RunDataOptions

PREFIX = "hf:"
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def read_hub(name: str, options: RunDataOptions) -> Raw:
    """Read a data set of the hub, row by row.

    Args:
        name: its name there, without ``hf:``.
        options: size, fit and channels.

    Returns:
        its images in its own splits; a single split is split by content.

    Raises:
        InputError: the package is missing, the set cannot be loaded, or it has no column of usable images.
    """
    try:
        hub = importlib.import_module("datasets")
    except ImportError:
        raise InputError("data", "hf: needs the extra: pip install 'nelbo[hub]'") from None
    if not sys.stderr.isatty() and hasattr(hub, "disable_progress_bars"):
        hub.disable_progress_bars()
    try:
        loaded = hub.load_dataset(name)
    except Exception as error:  # the package's own errors, and those of the network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError("data", f"hf:{name} cannot be loaded ({reason}); check the name and the network") from None
    tables = {meant: table for split, table in loaded.items() if (meant := split_of(split)) is not None}
    if "train" not in tables or len(tables) == 1:
        tables = {ALL: next(iter(tables.values() if tables else loaded.values()))}
    unused = [split for split in loaded if not any(loaded[split] is table for table in tables.values())]
    notes = [f"not used: {', '.join(unused)}"] if unused else []
    parts = {}
    for split, table in tables.items():
        parts[split], more = read_table(table, f"hf:{name} ({split})", options)
        notes += more
    return Raw(name, f"hf:{name}", parts, class_names(next(iter(tables.values()))), notes=tuple(dict.fromkeys(notes)))


def column(table: Any, names: tuple[str, ...]) -> str | None:
    """The first of the names that is a column, or None."""
    return next((each for each in names if each in table.column_names), None)


def class_names(table: Any) -> tuple[str, ...]:
    """The names of the labels, if the set has them."""
    key = column(table, LABEL_COLUMNS)
    return tuple(getattr(table.features[key], "names", None) or ()) if key is not None else ()


def read_table(table: Any, where: str, options: RunDataOptions) -> tuple[Part, list[str]]:
    """The images of one split; they must have one shape, unless options convert them."""
    key, label = column(table, IMAGE_COLUMNS), column(table, LABEL_COLUMNS)
    if key is None:
        raise InputError(where, f"has no column image or img; its columns are {', '.join(table.column_names)}")
    cells, mode = undecoded(table, key), getattr(table.features[key], "mode", None)
    shapes: dict[tuple[int, int, int], int] = {}
    images = np.empty(0, np.uint8)
    with quiet_decoding(), progress_bar("reading images", len(table)) as step:
        for row in range(len(table)):
            try:
                shape, pixels = shape_and_pixels(cells[row][key], mode)
            except (BadImageError, OSError) as error:
                raise InputError(f"{where}, row {row}", f"{error}; choose another set") from None
            if shape not in shapes:
                shapes[shape] = row
                check_shape(shapes, where, options)
            shaped = shape_pixels(pixels, options, 256)
            if row == 0:
                images = allocate((len(table), *shaped.shape), where)
            images[row] = shaped
            step(1)
    labels = np.asarray(table[label], dtype=np.int64) if label is not None and class_names(table) else None
    return Part(images, labels), shaping_notes(shapes, options)


def undecoded(table: Any, key: str) -> Any:
    """The image column with undecoded files, so that each header is read before its image is decoded."""
    feature = table.features[key]
    if type(feature).__name__ != "Image" or not hasattr(table, "cast_column"):
        return table
    return table.select_columns([key]).cast_column(key, type(feature)(decode=False))


def shape_and_pixels(cell: Any, mode: str | None) -> tuple[tuple[int, int, int], Pixels]:
    """(C, H, W) and the pixels of an image, or of a file's contents or path, converted to the set's mode if it has one.

    Raises:
        BadImageError: the image cannot be used.
    """
    if isinstance(cell, Image.Image):
        return header_of(cell).shape, pixels_of(cell)
    if not isinstance(cell, Mapping) or not (cell.get("bytes") or cell.get("path")):
        raise BadImageError("is empty")
    with opened(cell.get("bytes") or Path(cell["path"])) as image:
        shape = header_of(image).shape
        if mode is None:
            return shape, pixels_of(image)
        pixels = pixels_of(ImageOps.exif_transpose(image).convert(mode))
        return (len(pixels), *shape[1:]), pixels


def check_shape(shapes: dict[tuple[int, int, int], int], where: str, options: RunDataOptions) -> None:
    """Check that all images have one size and number of channels, unless options convert them."""
    require_fit((shape[1:] for shape in shapes), options)
    (first, one), (last, two) = next(iter(shapes.items())), list(shapes.items())[-1]
    if options.height_width is None and first[1:] != last[1:]:
        differ = f"row {one} is {first[1]}x{first[2]}, row {two} is {last[1]}x{last[2]}"
        raise InputError(where, f"images differ in size: {differ}; add `size` HxW `fit` crop|pad|resize")
    if options.channels is None and first[0] != last[0]:
        differ = f"row {one} has {first[0]} and row {two} has {last[0]}"
        raise InputError(where, f"images differ in channels: {differ}; add `channels` 1|3")
