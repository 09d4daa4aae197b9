"""A folder of images: scan it, read every header, then decode into one array."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from nelbo.cores import leave_core
from nelbo.data.decode import BadImageError, Header, quiet_decoding, read_header, read_pixels
from nelbo.data.progress import progress_bar
from nelbo.data.raw import ALL, Part, Pixels, Raw
from nelbo.data.scan import Found, scan
from nelbo.data.shaping import require_fit, shape_pixels, shaping_notes
from nelbo.data.storage import allocate, picked
from nelbo.errors import InputError
from nelbo.limits import cores
from nelbo.options import RunDataOptions

Result = TypeVar("Result")
WORKERS = 8
NAMED_BAD = 5  # at most this many skipped files are named


def read_folder(folder: Path, options: RunDataOptions) -> Raw:
    """Read a folder of images.

    Args:
        folder: the folder; :func:`nelbo.data.scan.scan` describes its layout.
        options: size, fit, channels, and whether to skip bad images.

    Returns:
        its images, with labels if it has class folders.

    Raises:
        InputError: there are no images, an image cannot be used, or they differ in size or channels.
    """
    found, passed = scan(folder)
    paths = [path for each in found.values() for path in each.paths]
    bad: dict[Path, str] = {}
    with quiet_decoding():
        headers = for_each(paths, read_header, "reading headers", options, bad)
        check_alike(folder, headers, options)
        kept, images = decode(folder, headers, options, bad)
    levels, mixed = common_levels(Counter(headers[path].levels for path in kept))
    if options.levels == 256:
        levels, mixed = 256, []
    if levels < 256:  # fewer levels were read as 0 to 255; scaling may have added others
        for image in images:
            image[...] = (image.astype(np.uint16) * (levels - 1) + 127) // 255
    classes, notes = classes_of(found)
    return Raw(
        name=folder.resolve().name or "folder",
        where=str(folder),
        parts=parts_of(folder, found, kept, images, classes),
        classes=classes,
        levels=levels,
        notes=(*notes, *passed, *mixed, *notes_on(folder, headers, bad, len(paths), options)),
    )


def for_each(
    paths: Sequence[Path], work: Callable[[Path], Result], title: str, options: RunDataOptions, bad: dict[Path, str]
) -> dict[Path, Result]:
    """Apply ``work`` to every file, in threads. Bad files go to ``bad`` if they may be skipped; else an InputError."""

    def attempt(path: Path) -> Result | BadImageError:
        try:
            return work(path)
        except BadImageError as error:
            return error

    done: dict[Path, Result] = {}
    workers = min(WORKERS, math.ceil(cores()))
    with ThreadPoolExecutor(workers, initializer=leave_core) as pool, progress_bar(title, len(paths)) as step:
        for path, result in zip(paths, pool.map(attempt, paths), strict=True):
            step(1)
            if not isinstance(result, BadImageError):
                done[path] = result
            elif options.skip_bad:
                bad[path] = str(result)
            else:
                pool.shutdown(wait=False, cancel_futures=True)
                raise InputError(str(path), f"{result}; or add `skip_bad` to skip such files")
    return done


def common_levels(counts: Mapping[int, int]) -> tuple[int, list[str]]:
    """The common number of levels: the largest if it contains the values of all others, else 256.

    Args:
        counts: number of levels → number of images.

    Returns:
        the levels, and a note if the images differ.
    """
    most = max(counts)
    levels = most if all((most - 1) % (each - 1) == 0 for each in counts) else 256
    if len(counts) == 1:
        return levels, []
    shares = ", ".join(f"{count} of {each} levels" for each, count in sorted(counts.items()))
    return levels, [f"images differ in bit depth ({shares}): all are read as {levels} levels, by scaling"]


def check_alike(folder: Path, headers: Mapping[Path, Header], options: RunDataOptions) -> None:
    """Check that all images have one size and one number of channels, unless options convert them."""
    if not headers:
        raise InputError("skip_bad", f"no image of {folder} can be read; repair the files")
    sizes: dict[tuple[int, int], Path] = {}
    counts: dict[int, Path] = {}
    for path, header in headers.items():
        sizes.setdefault(header.size, path)
        counts.setdefault(header.channels, path)
    require_fit(sizes, options)
    if len(sizes) > 1 and options.height_width is None:
        (first, second), (one, two) = list(sizes)[:2], list(sizes.values())[:2]
        differ = f"{name(one, folder)} is {first[0]}x{first[1]} and {name(two, folder)} is {second[0]}x{second[1]}"
        raise InputError(str(folder), f"images differ in size: {differ}; add `size` HxW `fit` crop|pad|resize")
    if len(counts) > 1 and options.channels is None:
        listed = " and ".join(f"{name(path, folder)} has {count}" for count, path in counts.items())
        raise InputError(str(folder), f"images differ in channels: {listed}; add `channels` 1|3 (2 and 4 keep alpha)")


def name(path: Path, folder: Path) -> str:
    """A file's path relative to the folder."""
    return path.relative_to(folder).as_posix()


def decode(
    folder: Path, headers: Mapping[Path, Header], options: RunDataOptions, bad: dict[Path, str]
) -> tuple[list[Path], Pixels]:
    """Decode all files into one array. Returns the readable ones, and their images, ``(N, C, H, W)``."""
    channels, height, width = next(iter(headers.values())).shape
    target = (options.channels or channels, *(options.height_width or (height, width)))
    images = allocate((len(headers), *target), str(folder))
    rows = {path: row for row, path in enumerate(headers)}

    def work(path: Path) -> int:
        pixels = read_pixels(path)
        if pixels.shape != headers[path].shape:
            raise BadImageError("has another shape than its header states; save it again")
        images[rows[path]] = shape_pixels(pixels, options, 256)
        return rows[path]

    done = for_each(list(headers), work, "decoding images", options, bad)
    if len(done) == len(images):
        return list(done), images
    rows_left = np.fromiter(done.values(), dtype=np.intp)
    return list(done), picked(images, rows_left, into=allocate((len(done), *target), str(folder)))


def classes_of(found: Mapping[str, Found]) -> tuple[tuple[str, ...], list[str]]:
    """The sorted names of the classes, and a note if subfolders are not classes."""
    if all(each.classes is not None for each in found.values()):
        return tuple(sorted({label for each in found.values() for label in each.classes or ()})), []
    if any(each.mixed for each in found.values()):
        return (), ["no labels: there are images beside subfolders and in them"]
    if any(each.classes is not None for each in found.values()):
        return (), ["no labels: only some splits have class folders"]
    return (), []


def parts_of(
    folder: Path, found: Mapping[str, Found], paths: Sequence[Path], images: Pixels, classes: tuple[str, ...]
) -> dict[str, Part]:
    """Cut the images into splits, in the order of the files, and add their labels."""
    index = {label: number for number, label in enumerate(classes)}
    usable = set(paths)
    parts, start = {}, 0
    for split, each in found.items():
        kept = [row for row, path in enumerate(each.paths) if path in usable]
        if not kept:
            what = "no image" if split == ALL else f"no image of {split}"
            raise InputError("skip_bad", f"{what} can be read; repair the files")
        labels = [index[each.classes[row]] for row in kept] if classes and each.classes else None
        part = images[start : start + len(kept)]
        sources = [name(each.paths[row], folder) for row in kept]
        parts[split] = Part(part, None if labels is None else np.asarray(labels, dtype=np.int64), sources)
        start += len(kept)
    return parts


def notes_on(
    folder: Path, headers: Mapping[Path, Header], bad: Mapping[Path, str], total: int, options: RunDataOptions
) -> list[str]:
    """Notes on how the images were converted, and which were skipped."""
    notes = shaping_notes((header.shape for header in headers.values()), options)
    if bad:
        shown = [f"{name(path, folder)} {reason}" for path, reason in list(bad.items())[:NAMED_BAD]]
        more = f"; and {len(bad) - NAMED_BAD} more" if len(bad) > NAMED_BAD else ""
        notes.append(f"skipped {len(bad)} of {total} images: {'; '.join(shown)}{more}")
    return notes
