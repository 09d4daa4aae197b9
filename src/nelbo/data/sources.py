"""The named sets that are downloaded: their files, URLs and digests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SourceFile:
    """One published file.

    Args:
        names: its usual names, uncompressed; the first is the published one.
        suffix: appended to the name of the download: ``.gz`` or nothing.
        urls: its URLs, tried in order.
        md5: its digest.
        md5_of: whether the digest is of the decompressed ``contents`` or of the published ``archive``.
        limit: the largest size of a download, in bytes.
    """

    names: tuple[str, ...]
    suffix: str
    urls: tuple[str, ...]
    md5: str
    md5_of: Literal["contents", "archive"]
    limit: int

    @property
    def published(self) -> str:
        """The name of the published file."""
        return self.names[0] + self.suffix


@dataclass(frozen=True)
class Source:
    """A named set with published train and test images; ``val`` is the last ``held`` training images.

    Args:
        name: its name in a SPEC.
        layout: ``idx`` (four files) or ``cifar`` (an archive of six).
        folders: its usual folders, relative to a folder of data sets.
        files: for ``idx``: train images, train labels, test images, test labels; for ``cifar``: the archive.
        classes: the names of its labels.
        shape: (C, H, W).
        train: the number of training images.
        test: the number of test images.
        held: the number of training images, from the end, that are ``val``.
    """

    name: str
    layout: Literal["idx", "cifar"]
    folders: tuple[str, ...]
    files: tuple[SourceFile, ...]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: int
    test: int
    held: int


IDX_STEMS = (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))


def idx_files(
    mirrors: tuple[str, ...], md5_of: Literal["contents", "archive"], sums: tuple[str, ...], limits: tuple[int, ...]
) -> tuple[SourceFile, ...]:
    """The four files of a set like MNIST."""
    return tuple(
        SourceFile(
            names=(f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"),
            suffix=".gz",
            urls=tuple(f"{mirror}{stem}-idx{axes}-ubyte.gz" for mirror in mirrors),
            md5=md5,
            md5_of=md5_of,
            limit=limit,
        )
        for (stem, axes), md5, limit in zip(IDX_STEMS, sums, limits, strict=True)
    )


# MNIST: Y. LeCun, C. Cortes, C. Burges, CC BY-SA 3.0. The digests are of the contents, so any correct copy is accepted.
MNIST = Source(
    name="mnist",
    layout="idx",
    folders=("mnist", "MNIST", "MNIST/raw"),
    files=idx_files(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        "contents",
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        (16_000_000, 100_000, 3_000_000, 50_000),
    ),
    classes=tuple("0123456789"),
    shape=(1, 28, 28),
    train=60_000,
    test=10_000,
    held=5_000,
)

# Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, MIT licence. Its authors publish the digests of the compressed files.
FASHION_MNIST = Source(
    name="fashion-mnist",
    layout="idx",
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),
    files=idx_files(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        "archive",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (30_000_000, 100_000, 6_000_000, 50_000),
    ),
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    shape=(1, 28, 28),
    train=60_000,
    test=10_000,
    held=5_000,
)

# CIFAR-10: A. Krizhevsky. The binary version, because the Python version is pickled.
CIFAR10 = Source(
    name="cifar10",
    layout="cifar",
    folders=("cifar10", "cifar-10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"),
    files=(
        SourceFile(
            names=("cifar-10-binary.tar.gz",),
            suffix="",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            md5_of="archive",
            limit=180_000_000,
        ),
    ),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    train=50_000,
    test=10_000,
    held=5_000,
)

SOURCES: dict[str, Source] = {source.name: source for source in (MNIST, FASHION_MNIST, CIFAR10)}
