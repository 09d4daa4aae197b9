"""From a SPEC to a Dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nelbo.check import checked
from nelbo.data.arrays import read_npy, read_npz
from nelbo.data.assemble import assemble
from nelbo.data.axes import as_images
from nelbo.data.binarize import binarised
from nelbo.data.dataset import Dataset
from nelbo.data.decode import looks_like_image
from nelbo.data.folder import read_folder
from nelbo.data.hub import PREFIX, read_hub
from nelbo.data.idx import read_idx
from nelbo.data.named import DIGITS, read_named
from nelbo.data.raw import ALL, Part, Raw
from nelbo.data.readers import read_registered, reader_of, readers
from nelbo.data.shaping import shape_part, shaping_notes
from nelbo.data.sources import SOURCES
from nelbo.errors import InputError, nearest
from nelbo.options import DataOptions, Layout, RunDataOptions

NAMES = (DIGITS, *SOURCES)


def load(spec: str, *, root: Path | None = None, **how: Any) -> Dataset:
    """Load images.

    Args:
        spec: a name in ``NAMES``; a path to a folder of images, a ``.npy``, ``.npz`` or IDX file; ``hf:NAME``; or
            ``NAME:rest`` for a reader of another package. A name has priority over a path: ``./mnist`` is a folder.
        root: the folder of named sets; None: ``$NELBO_DATA``, then the user's cache.
        how: any other fields of :class:`~nelbo.options.RunDataOptions`: ``size=(64, 48), fit="crop"``.

    Returns:
        the images with their splits.

    Raises:
        InputError: the images cannot be loaded or converted; the message gives the reason and a remedy.

    Example:
        >>> digits = load("digits")
        >>> digits.shape, digits.levels
        ((1, 8, 8), 17)
        >>> {name: len(digits.split(name)) for name in digits.bounds}
        {'train': 1259, 'val': 179, 'test': 359}
    """
    return load_described(checked(RunDataOptions, {"data": spec, **how}), root)


def load_described(options: DataOptions, root: Path | None = None) -> Dataset:
    """Load the images that options describe, as :func:`load` does.

    Raises:
        InputError: the images cannot be loaded or converted.
    """
    if options.fit is not None and options.size is None:
        raise InputError("fit", f"{options.fit} needs a size to fit to; add `size` HxW")
    if not isinstance(options, RunDataOptions):
        options = RunDataOptions(**options.model_dump())
    dataset = assemble(read(root, options), options.data, options)
    return binarised(dataset) if options.binarize else dataset


def read(root: Path | None, options: RunDataOptions) -> Raw:
    """Read the source of a SPEC, with sizes and channels converted."""
    spec = options.data
    if spec == DIGITS or spec in SOURCES:
        return shaped(read_named(spec, root), options)
    if spec.startswith(PREFIX):
        return read_hub(spec.removeprefix(PREFIX), options)
    if (entry := reader_of(spec)) is not None:
        return shaped(read_registered(entry, spec.partition(":")[2], options), options)
    path = Path(spec).expanduser()
    try:
        if not spec or not path.exists():
            prefixes = ", ".join(f"{name}:NAME" for name in dict.fromkeys(("hf", *readers())))
            known = f"names: {', '.join(NAMES)}; for your own images give an existing path, or {prefixes}"
            raise InputError("data", f"{spec!r} is neither a name nor a path{nearest(spec, NAMES)} ({known})")
        return read_folder(path, options) if path.is_dir() else shaped(read_file(path, options.layout), options)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror or error}") from None


def is_source(spec: str) -> bool:
    """Whether a SPEC is a known name, or that of a reader, rather than a file or folder."""
    return spec in NAMES or spec.startswith(PREFIX) or reader_of(spec) is not None


def read_file(path: Path, layout: Layout | None) -> Raw:
    """Read a file of the kind that its first bytes show."""
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"\x93NUMPY"):
        return read_npy(path, layout)
    if start.startswith(b"PK"):
        return read_npz(path, layout)
    if start.startswith((b"\x1f\x8b", b"\0\0\x08")):
        return read_idx_file(path, layout)
    if looks_like_image(path):
        raise InputError(str(path), "is a single image; use the folder that contains the images")
    raise InputError(str(path), "is of an unknown kind; use a folder of images, or a .npy, .npz or IDX file")


def read_idx_file(path: Path, layout: Layout | None) -> Raw:
    """Read a single IDX file of images, without labels."""
    values = read_idx(path).values
    if values.ndim < 3:
        raise InputError(str(path), f"has {values.ndim} axis, so it contains labels; use the file of images")
    name = path.name.removesuffix(".gz")
    return Raw(name, str(path), {ALL: Part(as_images(values, str(path), "nhw" if values.ndim == 3 else layout))})


def shaped(raw: Raw, options: RunDataOptions) -> Raw:
    """The same source with every image converted to the given size and channels."""
    shapes = [part.images.shape[1:] for part in raw.parts.values()]
    levels = raw.levels if options.levels is None else options.levels
    parts = {name: shape_part(part, options, levels, raw.where) for name, part in raw.parts.items()}
    notes = shaping_notes([(shape[0], shape[1], shape[2]) for shape in shapes], options)
    return replace(raw, parts=parts, notes=(*raw.notes, *notes))
