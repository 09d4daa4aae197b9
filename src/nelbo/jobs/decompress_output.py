"""Write decompressed images: a folder with their names, a .npy, or an .npz with names and labels."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nelbo.codec.apart import as_png_bytes
from nelbo.codec.archive import Table
from nelbo.codec.kinds import Kind, from_levels
from nelbo.codec.names import as_png, class_name, is_safe
from nelbo.errors import InputError
from nelbo.files import atomic_write
from nelbo.report.paths import free
from nelbo.report.pictures import picture
from nelbo.report.progress import bar

if TYPE_CHECKING:
    from nelbo.jobs.decompress import Decompressed

ARRAYS = (".npy", ".npz")
NO_NAMES = {
    errno.EEXIST: "has a name that is here twice, or also that of a folder",
    errno.ENOTDIR: "has a name in a folder that is also a file",
    errno.ENAMETOOLONG: "has a name that is too long for this file system",
}
"""Errors of names that a file system cannot have → the end of a sentence."""


def require_out(out: Path) -> Path:
    """The path for the images.

    Raises:
        InputError: it exists, or is that of a file of another kind.
    """
    if out.suffix.lower() in (".png", ".zip", ".pt", ".jpg", ".gif", ".webp"):
        raise InputError("out", f"{out.suffix} is not supported; use a folder, a .npy or an .npz")
    return free(out, "out")


def write_images(found: Decompressed, table: Table, out: Path, where: str) -> None:
    """Write images by the suffix of ``out``; complete or not at all.

    Args:
        found: the images.
        table: their kinds.
        out: the path.
        where: the compressed file, for messages.

    Raises:
        InputError: a stored name leads out of the folder or cannot be that of a file here, or images of several shapes
            go to one array.
        OSError: the path cannot be written.
    """
    if out.suffix.lower() in ARRAYS:
        write_array(found, out)
        return
    names = names_of(found, table)
    bad = [name for name in (*(table.names or ()), *names.values()) if not is_safe(name)]
    if bad:
        raise InputError(where, f"has the name {bad[0]!r}, which leads out of the folder; nothing is written")
    with atomic_write(out) as aside, bar(f"writing {len(names):,} images", len(names)) as progress:
        aside.mkdir()
        for number, (item, data) in enumerate(files_of(found, table, where)):
            try:
                write_new(aside / names[item], data)
            except OSError as error:
                if (why := NO_NAMES.get(error.errno or 0)) is None:
                    raise
                raise InputError(where, f"its image {item}, {names[item]!r}, {why}; write an .npy, or others") from None
            progress.move(number + 1)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist.

    Raises:
        OSError: it exists, because the file system takes two names for one, or another of ``NO_NAMES``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)


def names_of(found: Decompressed, table: Table) -> dict[int, str]:
    """The name of the file of each image: as it was given, with .png where it is another kind of file now."""
    items = [*found.rows, *found.apart, *found.lost]
    if table.names is not None:
        given = dict(enumerate(table.names))
    else:
        width = max(6, len(str(max(items, default=0))))
        given = {item: f"{item:0{width}d}.png" for item in items}
        if found.labels is not None:
            given = {item: f"{class_name(found.labels[item])}/{name}" for item, name in given.items()}
        given |= {item: file.name for item, file in found.apart.items()}
    names = as_png(given, {item for item, file in found.apart.items() if file.original})
    return {item: names[item] for item in (*found.rows, *found.apart)}


def files_of(found: Decompressed, table: Table, where: str) -> Iterator[tuple[int, bytes]]:
    """The number and the file of each image.

    Raises:
        InputError: the kind of an image is damaged.
    """
    kinds = [kind for kind, count in table.runs for _ in range(count)]
    for item, levels in zip(found.rows, found.images, strict=True):
        if not kinds:
            yield item, as_png_bytes(picture(levels, found.levels), Kind(mode="L"))
            continue
        kind = table.kinds[kinds[item]]
        try:
            yield item, as_png_bytes(from_levels(levels.numpy(), kind, found.levels), kind)
        except ValueError as error:
            raise InputError(where, f"has a damaged kind of image ({error}); write an .npy instead") from None
    yield from ((item, file.data) for item, file in found.apart.items())


def write_array(found: Decompressed, out: Path) -> None:
    """Write the levels of all images as one array: (n, H, W) for one channel, else (n, H, W, C); bool for two levels.

    An .npz also has the labels, the names and the number of levels, as 'nelbo sample' writes them.

    Raises:
        InputError: some images have other shapes.
    """
    if found.apart:
        name = next(iter(found.apart.values())).name
        raise InputError("out", f"{len(found.apart)} images, such as {name}, do not fit one array; give a folder")
    images = found.images.permute(0, 2, 3, 1).numpy()
    images = images[..., 0] if images.shape[-1] == 1 else images
    with atomic_write(out) as aside, aside.open("wb") as file:
        if out.suffix.lower() == ".npy":
            np.save(file, images.astype(bool) if found.levels == 2 else images)
            return
        own = {"labels": found.labels, "names": found.names}
        chosen = {key: np.array([each[row] for row in found.rows]) for key, each in own.items() if each is not None}
        np.savez_compressed(file, images=images, levels=np.int64(found.levels), **chosen)  # type: ignore[arg-type]
