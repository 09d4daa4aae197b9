"""The named sets: digits, which is part of scikit-learn, and those that are downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nelbo.data.cifar import read_cifar
from nelbo.data.download import MirrorError, download
from nelbo.data.idx import Idx, md5_of, read_idx
from nelbo.data.places import VARIABLE, Places, find, is_own_folder, places
from nelbo.data.raw import Part, Pixels, Raw
from nelbo.data.sources import SOURCES, Source, SourceFile
from nelbo.data.splits import stratified
from nelbo.errors import InputError

DIGITS = "digits"


def read_digits() -> Raw:
    """The 1,797 handwritten digits of scikit-learn: 8x8, 17 levels, a fixed split within each class (70/10/20 %)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    rows = stratified(labels, test=0.2, val=0.1, seed=0)
    parts = {name: Part(images[index], labels[index], index.tolist()) for name, index in rows.items()}
    return Raw(DIGITS, DIGITS, parts, classes=tuple("0123456789"), levels=17, published=True)


def read_named(name: str, root: Path | None) -> Raw:
    """A set by its name.

    Args:
        name: ``digits`` or one of ``SOURCES``.
        root: the folder of data sets, instead of the default ones.

    Returns:
        its published train and test images; ``val`` is the last of the training images.

    Raises:
        InputError: its files cannot be found or downloaded, or are not the published ones.
    """
    if name == DIGITS:
        return read_digits()
    source, spots = SOURCES[name], places(root)
    if source.layout == "cifar":
        parts, notes = read_cifar(source, spots, lambda: obtain(source, source.files[0], spots))
    else:
        parts, notes = read_idx_set(source, spots)
    train = parts["train"]
    assert train.labels is not None
    cut = source.train - source.held
    parts = {
        "train": Part(train.images[:cut], train.labels[:cut]),
        "val": Part(train.images[cut:], train.labels[cut:], range(cut, source.train)),
        "test": parts["test"],
    }
    return Raw(name, name, parts, classes=source.classes, notes=tuple(notes), published=True)


def obtain(source: Source, file: SourceFile, spots: Places) -> Path:
    """The path of a file of the set, which is downloaded if it is not found."""
    found = find(source, file, spots)
    if found is not None:
        return found
    folder = spots.store / source.name
    try:
        download(file, folder / file.published)
    except MirrorError as error:
        names = ", ".join(each.published for each in source.files)
        raise InputError(
            source.name,
            f"cannot be downloaded ({error}); put {names} into {folder}, or set {VARIABLE} to a folder with them",
        ) from None
    return folder / file.published


def read_idx_set(source: Source, spots: Places) -> tuple[dict[str, Part], list[str]]:
    """A set of four IDX files."""
    arrays: list[Pixels] = []
    notes: list[str] = []
    _, height, width = source.shape
    shapes = [(source.train, height, width), (source.train,), (source.test, height, width), (source.test,)]
    for file, shape in zip(source.files, shapes, strict=True):
        path = obtain(source, file, spots)
        idx = read_idx(path)
        notes += check_idx(source, file, path, idx, shape)
        arrays.append(idx.values)
    train, train_labels, test, test_labels = arrays
    return {
        "train": Part(train[:, None], train_labels.astype(np.int64)),
        "test": Part(test[:, None], test_labels.astype(np.int64)),
    }, notes


def check_idx(source: Source, file: SourceFile, path: Path, idx: Idx, shape: tuple[int, ...]) -> list[str]:
    """Compare a file with its published facts. Returns a note if its digest could not be checked."""
    where = str(path)
    if file.md5_of == "contents" or idx.gzipped:
        found = idx.md5 if file.md5_of == "contents" else md5_of(path, contents=False)
        if found != file.md5:
            fix = "remove it to download it again, or get the published file"
            raise InputError(where, f"is not the file of {source.name}: its MD5 is {found}, not {file.md5}; {fix}")
    elif not is_own_folder(path.parent, source):
        fix = f"put the published {file.published} there, or move it into a folder {source.name}"
        raise InputError(where, f"may be of {source.name} or of another set; {fix}")
    if idx.values.shape != shape:
        stated, wanted = (" x ".join(map(str, each)) for each in (idx.values.shape, shape))
        raise InputError(where, f"has {stated} values, but {source.name} has {wanted}; get the published file")
    if len(shape) == 1 and idx.values.max() >= len(source.classes):
        raise InputError(
            where, f"has a label {idx.values.max()} beyond {len(source.classes)} classes; download it again"
        )
    if file.md5_of == "archive" and not idx.gzipped:
        return [f"{where}: sizes checked, contents not (the published checksum is that of {file.published})"]
    return []
