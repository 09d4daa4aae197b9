"""Readers that other packages register: the SPEC ``NAME:rest`` goes to the reader NAME.

    [project.entry-points."nelbo.readers"]
    NAME = "package.module:function"

The function is called with the rest and an :class:`~nelbo.options.RunDataOptions`, and returns a
:class:`~nelbo.data.raw.Raw`. It raises InputError where there is nothing to read. nelbo itself brings the images to the
size and the channels that are asked for. No reader is imported before it is asked for.
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
    """The reader that a SPEC names; None if it names none."""
    name, colon, _ = spec.partition(":")
    return readers().get(name) if colon else None


def read_registered(entry: EntryPoint, rest: str, options: RunDataOptions) -> Raw:
    """What a registered reader reads.

    Args:
        entry: the reader.
        rest: the SPEC after the colon.
        options: what is asked of the images.

    Raises:
        InputError: its package cannot be imported, or the reader's own.
        TypeError: it returns no images in uint8, shape (N, C, H, W).
    """
    try:
        reader = entry.load()
    except ImportError as error:
        package = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
        raise InputError("data", f"the reader {entry.name!r}{package} cannot be imported: {error}") from None
    raw = reader(rest, options)
    if not isinstance(raw, Raw):
        raise TypeError(f"{entry.value} must return a nelbo.data.Raw, and gave a {type(raw).__name__}")
    for name, part in raw.parts.items():
        if part.images.dtype != "uint8" or part.images.ndim != 4:
            found = f"{part.images.dtype} of shape {part.images.shape}"
            raise TypeError(f"{entry.value} must give images in uint8, shape (N, C, H, W); its {name} is {found}")
    return raw
