"""Readers of other packages: the SPEC ``NAME:rest`` goes to the reader NAME.

    [project.entry-points."nelbo.readers"]
    NAME = "package.module:function"

The function is called with the rest and an :class:`~nelbo.options.RunDataOptions`, and returns a
:class:`~nelbo.data.raw.Raw`. It raises InputError if it cannot read the rest. nelbo converts the images to the given
size and channels. A reader is imported when it is used.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from nelbo.data.raw import Raw
from nelbo.errors import InputError
from nelbo.options import RunDataOptions

GROUP = "nelbo.readers"


@cache
def readers() -> dict[str, EntryPoint]:
    """Every registered reader by its name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def reader_of(spec: str) -> EntryPoint | None:
    """The reader of a SPEC, or None."""
    name, colon, _ = spec.partition(":")
    return readers().get(name) if colon else None


def read_registered(entry: EntryPoint, rest: str, options: RunDataOptions) -> Raw:
    """The result of a registered reader.

    Args:
        entry: the reader.
        rest: the SPEC after the colon.
        options: the data options.

    Raises:
        InputError: its package cannot be imported, or the reader raises it.
        TypeError: the reader does not return images in uint8, shape (N, C, H, W).
    """
    try:
        reader = entry.load()
    except ImportError as error:
        package = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
        raise InputError("data", f"the reader {entry.name!r}{package} cannot be imported: {error}") from None
    raw = reader(rest, options)
    if not isinstance(raw, Raw):
        raise TypeError(f"{entry.value} must return a nelbo.data.Raw, not a {type(raw).__name__}")
    for name, part in raw.parts.items():
        if part.images.dtype != "uint8" or part.images.ndim != 4:
            found = f"{part.images.dtype} of shape {part.images.shape}"
            raise TypeError(f"{entry.value} must return images in uint8, shape (N, C, H, W); its {name} is {found}")
    return raw
