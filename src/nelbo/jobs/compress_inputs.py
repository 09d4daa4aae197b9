"""What ``nelbo compress`` is given: image files and folders, a SPEC, or an array; as levels for a run, or apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from nelbo.codec.apart import encode_apart
from nelbo.codec.archive import Table
from nelbo.codec.coder import Images
from nelbo.codec.kinds import Kind, has_more, to_levels, why_apart
from nelbo.codec.names import is_safe
from nelbo.data import Dataset
from nelbo.data.decode import BadImageError, looks_like_image, opened, quiet_decoding
from nelbo.data.loading import NAMES, is_source, load_described
from nelbo.data.scan import listed, look
from nelbo.data.storage import allocate
from nelbo.errors import InputError, nearest
from nelbo.jobs.chosen_data import fits
from nelbo.jobs.run import Run
from nelbo.options import DataOptions, Shape
from nelbo.report.progress import bar
from nelbo.streams import as_text

NAMED = 3
"""Images that a note names."""
ALL = "all"
CHANGED = ("binarised", "converted")
"""Words of notes on data that differ from their source."""


@dataclass(frozen=True)
class Inputs:
    """Images to compress.

    Attributes:
        images: those with levels, uint8, shape (n, C, H, W).
        table: names, kinds and labels of all images.
        apart: the payloads of the others.
        files: bytes of the given files; None for a SPEC or an array.
        notes: lines for the user.
    """

    images: Images
    table: Table
    apart: Sequence[bytes] = ()
    files: int | None = None
    notes: list[str] = field(default_factory=list)


def read_inputs(run: Run, given: Sequence[str | Path], split: str | None, limit: int | None) -> Inputs:
    """The images that these words mean.

    Args:
        run: the run.
        given: files and folders of images, or one SPEC.
        split: of a SPEC; None for all images.
        limit: the number of images to take of a SPEC; None for all.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    if not given:
        raise InputError("images", "are missing; name files, folders, or one data set")
    words = [str(each) for each in given]
    if len(words) == 1 and (is_source(words[0]) or is_array_file(Path(words[0]).expanduser())):
        return of_dataset(*read_spec(run, words[0]), split or ALL, limit)
    for name, value in (("split", split), ("limit", limit)):
        if value is not None:
            raise InputError(name, "applies to a data set, not to files and folders of images; leave it out")
    return of_files(*listed_files(words), run.config.images.shape, run.config.images.levels)


def of_array(images: Images, shape: Shape, levels: int, labels: Sequence[int | str] | None = None) -> Inputs:
    """The images of an array.

    Args:
        images: integer levels, shape (n, C, H, W), or (n, H, W) for one channel.
        shape: (C, H, W) of the run.
        levels: L of the run.
        labels: the label of each image.

    Raises:
        InputError: they are not images of the run.
    """
    x = np.asarray(images)
    x = x[:, None] if x.ndim == 3 and shape[0] == 1 else x
    if x.dtype.kind not in "iub" or x.ndim != 4 or x.shape[1:] != shape or not len(x):
        wanted = "×".join(map(str, shape))
        raise InputError("images", f"has shape {x.shape} of {x.dtype}, but images of the run are integers, n×{wanted}")
    if int(x.min()) < 0 or int(x.max()) >= levels:
        raise InputError("images", f"has levels {int(x.min())} to {int(x.max())}, but the run has 0 … {levels - 1}")
    if labels is not None and len(labels) != len(x):
        raise InputError("labels", f"are {len(labels)} for {len(x)} images; give one for each")
    classes, places = np.unique([str(label) for label in labels or ()], return_inverse=True)
    own = {} if labels is None else {"labels": places.tolist(), "classes": classes.tolist()}
    return Inputs(np.ascontiguousarray(x, np.uint8), Table(**own))


def is_array_file(path: Path) -> bool:
    """Whether a path is a file that is no image, such as .npy, .npz or IDX."""
    return path.is_file() and not looks_like_image(path)


def read_spec(run: Run, spec: str) -> tuple[Dataset, list[str]]:
    """The data of a SPEC as the run reads them, and notes.

    What the run's own settings change of its data, such as --binarize or --size, is changed in the file too, which a
    note says. Other data are read as they are.

    Raises:
        InputError: they cannot be read, or are not images of the run's shape and levels.
    """
    own = run.config.data
    if spec == own.data:
        return run.dataset, noted(run.dataset)
    dataset = load_described(DataOptions(data=spec, levels=None if is_source(spec) else run.config.images.levels))
    fits(run, dataset)
    return dataset, noted(dataset)


def noted(dataset: Dataset) -> list[str]:
    """The notes of data, which say whether the file has other images than the source."""
    words = [(note, next((word for word in CHANGED if word in note), None)) for note in dataset.notes]
    return [
        note if word is None else f"{note}; the file has the {word} images, not the originals" for note, word in words
    ]


def of_dataset(dataset: Dataset, notes: list[str], split: str, limit: int | None) -> Inputs:
    """The images of a split in their order; those of all splits in the order of the source, if they are one array."""
    images, labels = dataset.split(split).numpy(), dataset.split_labels(split)
    rows = np.arange(len(images))
    if split == ALL and sorted(map(str, dataset.sources)) == sorted(map(str, range(len(images)))):
        rows = np.argsort(np.asarray(dataset.sources, dtype=np.int64), kind="stable")
    rows = rows[:limit]
    own = {"data": dataset.name, "split": split}
    if labels is not None:
        classes = list(map(as_text, dataset.classes))
        own |= {"labels": labels.numpy()[rows].tolist(), "classes": classes}  # type: ignore[dict-item]
    return Inputs(np.ascontiguousarray(images[rows]), Table.model_validate(own), notes=notes)


def listed_files(words: Sequence[str]) -> tuple[list[Path], list[str], list[str]]:
    """The files of these files and folders, their names inside of the compressed file, and notes.

    The names of a single folder's files are relative to it; others are relative to the folder that all words share.

    Raises:
        InputError: a path does not exist, or has no images.
    """
    paths, passed = dict[str, Path](), Counter[str]()
    given = [Path(os.path.abspath(Path(word).expanduser())) for word in words]
    alone = len(given) == 1 and given[0].is_dir()
    base = given[0] if alone else Path(os.path.commonpath([path.parent for path in given]))
    repeats = 0
    for word, path in zip(words, given, strict=True):
        if not path.exists():
            raise InputError(
                "images", f"{word!r} is neither a file, a folder, nor the name of data{nearest(word, NAMES)}"
            )
        if path.is_file() and not looks_like_image(path):
            raise InputError(word, "is not an image; an array, such as a .npy, is given alone")
        tree = look(path, frozenset()) if path.is_dir() else None
        found = [path] if tree is None else [*tree.walk()]
        if tree is not None:
            passed += tree.all_passed()
            if not found:
                raise InputError(word, f"has no images (ignored: {listed(passed) or 'nothing'})")
        for each in found:
            name = each.relative_to(base).as_posix()
            repeats += name in paths
            paths[name] = each
    bad = [name for name in paths if not is_safe(name)]
    if bad:
        raise InputError(bad[0], "is a name that no file could be restored to on every system; rename it")
    notes = [f"{repeats} files were named twice, and are in the file once"] if repeats else []
    if passed:
        notes.append(f"not in the file, because they are no images: {listed(passed)}")
    return list(paths.values()), list(paths), notes


@dataclass
class Files:
    """Files that are read one by one.

    Attributes:
        images: levels of those that fit, shape (n, C, H, W); the first ``fitting`` are filled.
        kinds: their kinds, each once.
        places: of each image its place in ``kinds``, or −1.
        reasons: why images are apart → their names.
        unkept: names of files with metadata.
    """

    images: Images
    kinds: dict[Kind, int] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    apart: list[bytes] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    unkept: list[str] = field(default_factory=list)
    fitting: int = 0
    size: int = 0

    def add(self, name: str, data: bytes, shape: Shape, levels: int) -> None:
        """Read one file."""
        self.size += len(data)
        image, why = decoded(data)
        found = None if image is None or why else to_levels(image, shape, levels)
        if found is None:
            why = why or misfit(image, shape)
            self.reasons.setdefault(why, []).append(name)
            self.apart.append(encode_apart(len(self.places), name, data, image))
            self.places.append(-1)
            return
        self.images[self.fitting], kind = found
        self.fitting += 1
        self.places.append(self.kinds.setdefault(kind, len(self.kinds)))
        if image is not None and has_more(image):
            self.unkept.append(name)

    def notes(self) -> list[str]:
        """What the user should know."""
        found = [f"{named(names)}: {why}; stored without the model" for why, names in self.reasons.items()]
        if self.unkept:
            found.append(f"{named(self.unkept)}: EXIF, XMP, texts and gamma are not in the file")
        return found


def named(names: Sequence[str]) -> str:
    """The number of images, and the names of some."""
    shown = ", ".join(as_text(name) for name in names[:NAMED])
    count = "1 image" if len(names) == 1 else f"{len(names):,} images"
    return f"{count} ({shown}{', …' if len(names) > NAMED else ''})"


def decoded(data: bytes) -> tuple[Image.Image | None, str | None]:
    """An image with its pixels, and why it can only be stored as the file that it is; None for either."""
    try:
        with opened(data) as image:
            why = why_apart(image)
            if why is None:
                image.load()
            return (image if why is None else None), why
    except BadImageError as error:
        return None, str(error)


def misfit(image: Image.Image | None, shape: Shape) -> str:
    """Why an image has no levels for a model of this shape."""
    assert image is not None
    if (image.height, image.width) != shape[1:]:
        return f"not {shape[1]}×{shape[2]}"
    return f"pixels that {shape[0]} channels of the run's levels cannot hold"


def of_files(paths: Sequence[Path], names: list[str], notes: list[str], shape: Shape, levels: int) -> Inputs:
    """The images of files.

    Raises:
        InputError: none of them is of the run's shape.
    """
    files = Files(allocate((len(paths), *shape), str(paths[0])))
    with quiet_decoding(), bar(f"reading {len(paths):,} images", len(paths)) as progress:
        for number, (path, name) in enumerate(zip(paths, names, strict=True)):
            files.add(name, path.read_bytes(), shape, levels)
            progress.move(number + 1)
    if not files.fitting:
        why, some = next(iter(files.reasons.items()))
        wanted = "×".join(map(str, shape))
        raise InputError("images", f"none fits the run, whose images are {wanted} (C×H×W): {named(some)}: {why}")
    edges = [0, *(np.flatnonzero(np.diff(files.places)) + 1).tolist(), len(files.places)]
    runs = [(files.places[start], stop - start) for start, stop in pairwise(edges)]
    table = Table(names=names, kinds=list(files.kinds), runs=runs)
    return Inputs(files.images[: files.fitting], table, files.apart, files.size, [*notes, *files.notes()])
