"""From an image of a file to the levels of a model and back, without loss, or not at all.

A model has images of one shape and number of levels. An image fits if its pixels can be written in this form and come
back as they were: grey pixels in an RGB image, opaque alpha, and the colours of a palette are such forms. What the
levels do not hold is the image's :class:`Kind`: its mode, its palette, its transparent colour and its colour profile.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from nelbo.codec.coder import Images
from nelbo.data.decode import has_deep_samples, levels_of, orientation
from nelbo.options import Shape

Mode = Literal["1", "L", "LA", "P", "RGB", "RGBA"]
MODES: tuple[Mode, ...] = ("1", "L", "LA", "P", "RGB", "RGBA")
Byte = Annotated[int, Field(ge=0, le=255)]
Rgba = np.ndarray
"""Levels 0 … 255, uint8, shape (H, W, 4)."""
NOT_KEPT = ("exif", "xmp", "XML:com.adobe.xmp", "comment", "photoshop", "gamma")
"""Names of Pillow for what is in a file beside its pixels, and is not kept."""


class Kind(BaseModel):
    """What an image is beside its levels."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mode: Mode
    "Pillow's name: 1 (black and white), L (grey), LA, P (a palette), RGB or RGBA."
    palette: str | None = None
    "The RGB values of the palette, in base64."
    transparency: str | Byte | tuple[int, int, int] | None = None
    "The transparent level or colour; for a palette the alpha of each entry, in base64, or the transparent entry."
    profile: str | None = None
    "The ICC profile, in base64."

    @classmethod
    def of(cls, image: Image.Image) -> Kind:
        """The kind of an image, whose mode is one of ``MODES``.

        Raises:
            ValueError: its transparency has another form.
        """
        palette, clear = image.palette, image.info.get("transparency")
        profile = image.info.get("icc_profile")
        return cls(
            mode=image.mode,  # type: ignore[arg-type]
            palette=None if image.mode != "P" or palette is None else text(bytes(image.getpalette() or [])),
            transparency=text(clear) if isinstance(clear, bytes) else clear,
            profile=text(profile) if isinstance(profile, bytes) and profile else None,
        )

    @property
    def png(self) -> dict[str, Any]:
        """The arguments of ``save`` for a PNG of this kind."""
        clear = self.transparency
        found = {"transparency": base64.b64decode(clear) if isinstance(clear, str) else clear}
        found["icc_profile"] = None if self.profile is None else base64.b64decode(self.profile)
        return {name: value for name, value in found.items() if value is not None}


def text(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode()


def has_more(image: Image.Image) -> bool:
    """Whether a file has more than its pixels, their kind and their resolution."""
    return any(key in image.info for key in NOT_KEPT) or bool(getattr(image, "text", None))


def why_apart(image: Image.Image) -> str | None:
    """Why an image has no levels at all, as the end of a sentence; None if it may have them."""
    if getattr(image, "n_frames", 1) > 1:
        return "several pages or frames"
    if has_deep_samples(image):
        return "more than 8 bits per channel"
    if image.mode == "L" and "transparency" in image.info and levels_of(image) < 256:
        return "a transparent level of fewer than 8 bits"  # which would be of other pixels in 8 bits
    if image.mode not in MODES:
        return f"pixels of mode {image.mode}"
    if orientation(image) != 1:
        return "an EXIF orientation"
    return None


def to_levels(image: Image.Image, shape: Shape, levels: int) -> tuple[Images, Kind] | None:
    """The levels of an image for a model, and its kind; None if it does not fit.

    Args:
        image: an image for which :func:`why_apart` is None, with its pixels loaded.
        shape: (C, H, W) of the model.
        levels: L of the model.

    Returns:
        Levels of shape (C, H, W), from which :func:`from_levels` makes the same image.
    """
    if (image.height, image.width) != shape[1:]:
        return None
    try:
        kind = Kind.of(image)
        rgba = to_rgba(image, kind)
        planes = to_planes(rgba, shape[0])
    except ValueError:
        return None
    if planes is None:
        return None
    found = ((planes.astype(np.uint16) * (levels - 1) + 127) // 255).astype(np.uint8)
    return (found, kind) if same(from_levels(found, kind, levels), image) else None


def from_levels(found: Images, kind: Kind, levels: int) -> Image.Image:
    """The image of these levels.

    Args:
        found: levels, shape (C, H, W).
        kind: the image's kind.
        levels: L.

    Raises:
        ValueError: these levels are not those of an image of this kind.
    """
    planes = (found.astype(np.uint16) * 255 // (levels - 1)).astype(np.uint8).transpose(1, 2, 0)
    channels = planes.shape[2]
    alpha = planes[..., -1:] if channels % 2 == 0 else np.full_like(planes[..., :1], 255)
    colour = planes[..., :3] if channels >= 3 else np.repeat(planes[..., :1], 3, 2)
    return from_rgba(np.concatenate([colour, alpha], 2), kind)


def same(one: Image.Image, two: Image.Image) -> bool:
    """Whether two images have the same mode, size and pixels."""
    return (one.mode, one.size) == (two.mode, two.size) and one.tobytes() == two.tobytes()


def to_planes(rgba: Rgba, channels: int) -> np.ndarray | None:
    """The pixels with 1 (grey), 2 (grey, alpha), 3 or 4 channels, shape (channels, H, W); None if that loses some."""
    if channels % 2 and int(rgba[..., 3].min()) < 255:
        return None
    grey = bool((rgba[..., :1] == rgba[..., 1:3]).all())
    if channels <= 2 and not grey:
        return None
    kept = [*range(3 if channels >= 3 else 1), *([3] if channels % 2 == 0 else [])]
    return rgba[..., kept].transpose(2, 0, 1)


def table_of(kind: Kind) -> np.ndarray:
    """The RGBA values of a palette's entries, shape (entries, 4).

    Raises:
        ValueError: the kind has no palette, or one of another length.
    """
    if kind.palette is None:
        raise ValueError("no palette")
    colours = np.frombuffer(base64.b64decode(kind.palette), np.uint8)
    if len(colours) % 3 or not 0 < len(colours) <= 768:
        raise ValueError("a palette of another length")
    table = np.full((len(colours) // 3, 4), 255, np.uint8)
    table[:, :3] = colours.reshape(-1, 3)
    if isinstance(kind.transparency, str):
        alpha = np.frombuffer(base64.b64decode(kind.transparency), np.uint8)[: len(table)]
        table[: len(alpha), 3] = alpha
    elif isinstance(kind.transparency, int) and kind.transparency < len(table):
        table[kind.transparency, 3] = 0
    return table


def to_rgba(image: Image.Image, kind: Kind) -> Rgba:
    """The pixels of an image; a transparent colour, other than of a palette, is left to the kind.

    Raises:
        ValueError: a pixel is not in the palette.
    """
    if kind.mode == "P":
        places, table = np.asarray(image), table_of(kind)
        if int(places.max()) >= len(table):
            raise ValueError("a pixel that is not in the palette")
        return table[places]
    if kind.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha = pixels[..., -1:] if pixels.shape[2] % 2 == 0 else np.full_like(pixels[..., :1], 255)
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, 2)
    return np.concatenate([colour, alpha], 2)


def from_rgba(rgba: Rgba, kind: Kind) -> Image.Image:
    """The image of a kind with these pixels.

    Raises:
        ValueError: a pixel is not in the palette.
    """
    if kind.mode == "P":
        table = table_of(kind)
        image = Image.fromarray(places_in(table, rgba))
        image.putpalette(table[:, :3].tobytes(), "RGB")
        return image
    if kind.mode == "1":
        return Image.fromarray(rgba[..., 0]).convert("1", dither=Image.Dither.NONE)
    kept = {"L": [0], "LA": [0, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3]}[kind.mode]
    pixels = np.ascontiguousarray(rgba[..., kept])
    return Image.fromarray(pixels[..., 0] if kind.mode == "L" else pixels)


def places_in(table: np.ndarray, rgba: Rgba) -> np.ndarray:
    """The first entry of a palette with the colour of each pixel, shape (H, W).

    Raises:
        ValueError: a pixel is not in the palette.
    """
    entries, pixels = (np.ascontiguousarray(each).view("<u4")[..., 0] for each in (table, rgba))
    distinct, first = np.unique(entries, return_index=True)
    at = np.searchsorted(distinct, pixels).clip(max=len(distinct) - 1)
    if not bool((distinct[at] == pixels).all()):
        raise ValueError("a pixel that is not in the palette")
    return first[at].astype(np.uint8)
