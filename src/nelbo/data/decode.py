"""One image file: its header, and its pixels without loss."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nelbo.data.raw import Pixels
from nelbo.data.shaping import to_planes

AVIF = importlib.util.find_spec("PIL._avif") is not None
"""Whether this Pillow reads AVIF."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", *(("AVIF",) if AVIF else ()))
EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
        *(".pbm", ".pgm", ".ppm", ".pnm"),
        *((".avif",) if AVIF else ()),
    )
)
MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA"}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
SIGNATURES = ((0, b"\x89PNG\r\n\x1a\n"), (0, b"\xff\xd8\xff"), (0, b"GIF87a"), (0, b"GIF89a"), (8, b"WEBPVP8"))
"""Signatures at their offsets. TIFF's is not among them, because raw photographs share it."""
GREY_LEVELS = {"L;2": 4, "L;4": 16}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}

LONGEST = 65_535
"""The longest side in pixels, as in JPEG. Pillow's pointer for every row dominates the memory of a thin image."""

ORIENTATION, WIDTH, HEIGHT, BITS_PER_SAMPLE = 0x0112, 256, 257, 258
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(Exception):
    """An image cannot be used; the message gives the reason and, if possible, a remedy."""


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Args:
        channels: 1 to 4.
        size: (H, W) after its EXIF orientation.
        levels: the number of values a pixel can take; decoding scales them to 0 … 255.
    """

    channels: int
    size: tuple[int, int]
    levels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, *self.size


def looks_like_image(path: Path) -> bool:
    """Whether a file is an image, by its extension or its first bytes."""
    if path.suffix.lower() in EXTENSIONS:
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError:
        return False
    return any(start[at:].startswith(mark) for at, mark in SIGNATURES) or (
        AVIF and start[4:12] in (b"ftypavif", b"ftypavis")
    )


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Suppress Pillow's warnings, except for an implausibly large image, which becomes an error.

    Warnings are a setting of the whole process, so enter this once around all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_header(path: Path) -> Header:
    """The header of a file, without decoding. Raises BadImageError."""
    with opened(path) as image:
        return header_of(image)


def read_pixels(path: Path) -> Pixels:
    """Decode a file.

    Args:
        path: the file.

    Returns:
        uint8, ``(C, H, W)``: fewer levels scaled to 0 … 255, palettes as colours, alpha kept, EXIF orientation applied.

    Raises:
        BadImageError: the file cannot be used.
    """
    with opened(path) as image:
        return pixels_of(image)


def header_of(image: Image.Image) -> Header:
    """The header of an open image. Raises BadImageError if its kind is not supported."""
    mode = usable_mode(image)
    width, height = image.size
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        width, height = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]  # some versions of Pillow have already turned size
    size = (width, height) if orientation(image) >= 5 else (height, width)
    return Header(CHANNELS[mode], size, levels_of(image))


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an open image; uint8, ``(C, H, W)``."""
    mode = usable_mode(image)
    image.load()
    turn = TURNS.get(orientation(image))
    if image.mode != mode:
        image = image.convert(mode)
    return to_planes(image if turn is None else image.transpose(turn))


@contextmanager
def opened(file: Path | bytes) -> Iterator[Image.Image]:
    """Open a file, or a file's contents, in one of the supported formats.

    Raises:
        BadImageError: for any exception that a damaged file causes, here or in the body.
    """
    try:
        # A stream, not a path: Pillow memory-maps uncompressed files with a path, and some versions garble such TIFFs.
        stream = BytesIO(file) if isinstance(file, bytes) else file.open("rb")
        with stream, Image.open(stream, formats=FORMATS) as image:
            if image.format == "AVIF":
                check_avif_depth(file)
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("is not an image of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError("has implausibly many pixels") from None
    except PermissionError:
        raise BadImageError("cannot be read: permission denied") from None
    except Exception as error:  # a damaged file can cause almost any exception
        lines = str(error).splitlines()
        raise BadImageError(f"is truncated or corrupt ({lines[0] if lines else type(error).__name__})") from None


def usable_mode(image: Image.Image) -> str:
    """The mode that keeps all information: L, LA, RGB or RGBA. Raises BadImageError if there is none."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO is a photograph with previews
        raise BadImageError("is animated or has several pages; save the frames as single images")
    if has_deep_samples(image) or image.mode not in MODES:
        what = "more than 8 bits per channel" if has_deep_samples(image) else f"pixels of mode {image.mode}"
        raise BadImageError(f"has {what}; convert it to 8-bit grey or RGB")
    if 0 in image.size:
        raise BadImageError("has no pixels")
    if max(image.size) > LONGEST:
        raise BadImageError(f"has a side of {max(image.size):,} pixels; the maximum is {LONGEST:,}: crop or scale it")
    mode = MODES[image.mode]
    return WITH_ALPHA.get(mode, mode) if image.has_transparency_data else mode


def has_deep_samples(image: Image.Image) -> bool:
    """Whether samples have more than 8 bits, including those that Pillow would silently halve."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8
    flat = decoder_arguments(image)
    if image.format == "PPM":
        return any(isinstance(each, int) and each > 255 for each in flat)
    return image.format == "PNG" and any(isinstance(each, str) and ";16" in each for each in flat)


def decoder_arguments(image: Image.Image) -> list[object]:
    """The arguments of Pillow's decoder: the packing of a PNG's samples, or the largest value of a PPM's."""
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    return [each for some in arguments for each in (some if isinstance(some, tuple) else (some,))]


def levels_of(image: Image.Image) -> int:
    """The number of values a pixel can take: from the bit depth of a grey PNG, or the largest value of a PGM or PPM."""
    if image.mode == "1":
        return 2
    arguments = decoder_arguments(image)
    if image.format == "PNG":
        return next((GREY_LEVELS[each] for each in arguments if isinstance(each, str) and each in GREY_LEVELS), 256)
    if image.format == "PPM":
        return next((each + 1 for each in arguments if type(each) is int and 0 < each < 255), 256)
    return 256


def check_avif_depth(file: Path | bytes) -> None:
    """Refuse AVIF with more than 8 bits (third byte of av1C), which Pillow silently halves. Raises BadImageError."""
    if isinstance(file, bytes):
        data = file
    else:
        with file.open("rb") as stream:
            data = stream.read(1 << 16)
    at = data.find(b"av1C")
    if at >= 0 and data[at + 6 : at + 7] and data[at + 6] & 0x40:
        raise BadImageError("has more than 8 bits per channel; convert it to 8-bit grey or RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or unreadable."""
    try:
        # image.getexif() would decode the pixels of a PNG.
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:  # with damaged EXIF data the pixels stay as they are
        return 1
    return found if found in TURNS else 1
