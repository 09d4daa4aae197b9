"""Pictures from arrays: a grid, a comparison, a folder, an animation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nelbo.files import atomic_write

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GRID_SIDE = 640
CHECKS = 6
"""Squares of the chessboard behind a transparent image, along its shorter side."""
LIGHT, DARK = 204, 153


def picture(image: Tensor, levels: int) -> Image.Image:
    """One image as a picture, with its levels scaled to 0 … 255.

    Args:
        image: integer levels, uint8, shape (C, H, W), C = 1 … 4.
        levels: L.
    """
    array = image.numpy().astype(np.uint16) * 255 // (levels - 1)
    array = np.ascontiguousarray(array.astype(np.uint8).transpose(1, 2, 0))
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array, MODES[image.shape[0]])


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """Decoded pixels, uint8, shape (C, H, W), as a picture."""
    return picture(torch.from_numpy(np.array(pixels)), 256)


def over_checks(tile: Image.Image) -> Image.Image:
    """The picture; with alpha, over a chessboard of grey squares."""
    if tile.mode not in ("LA", "RGBA"):
        return tile
    side = max(1, min(tile.size) // CHECKS)
    rows, columns = np.ogrid[: tile.height, : tile.width]
    board = np.where((rows // side + columns // side) % 2, DARK, LIGHT).astype(np.uint8)
    seen = Image.alpha_composite(Image.fromarray(board).convert("RGBA"), tile.convert("RGBA"))
    return seen.convert(tile.mode.removesuffix("A"))


def grid(images: Tensor, levels: int, columns: int | None = None) -> Image.Image:
    """Images in a grid; small ones are enlarged without smoothing, transparent ones shown over a chessboard.

    Args:
        images: integer levels, uint8, shape (n, C, H, W), n ≥ 1.
        levels: L.
        columns: images in a row; None for an almost square picture.

    Returns:
        A picture in grey (C = 1, 2) or RGB (C = 3, 4).
    """
    n, channels, height, width = images.shape
    columns = columns or max(1, min(n, round(math.sqrt(n * height / width))))
    rows = math.ceil(n / columns)
    scale = max(1, GRID_SIDE // (max(columns * width, rows * height)))
    gap = max(1, scale * min(height, width) // 16)
    tile = (width * scale, height * scale)
    sheet = Image.new(
        MODES[channels].removesuffix("A"), (columns * (tile[0] + gap) + gap, rows * (tile[1] + gap) + gap), "white"
    )
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        place = (gap + column * (tile[0] + gap), gap + row * (tile[1] + gap))
        sheet.paste(over_checks(picture(image, levels).resize(tile, Image.Resampling.NEAREST)), place)
    return sheet


def rows_of(rows: Sequence[Tensor], levels: int) -> Image.Image:
    """A grid with a row for each class, left white where a class has fewer images than another.

    Args:
        rows: the images of each class, integer levels, uint8, shape (n, C, H, W); at least one has an image.
        levels: L.
    """
    if len(rows) == 1:
        return grid(rows[0], levels)
    columns = max(map(len, rows))
    filled = [torch.cat([row, row.new_full((columns - len(row), *row.shape[1:]), levels - 1)]) for row in rows]
    return grid(torch.cat(filled), levels, columns)


def beside(left: Image.Image, left_title: str, right: Image.Image, right_title: str) -> Image.Image:
    """Two pictures side by side, each with a title above."""
    font = ImageFont.load_default(size=22)
    head, gap = 40, 24
    colour = "RGB" if "RGB" in left.mode else "L"
    sheet = Image.new(colour, (left.width + gap + right.width, head + max(left.height, right.height)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, title, part in ((0, left_title, left), (left.width + gap, right_title, right)):
        draw.text((x + 6, 8), title, fill="black", font=font)
        sheet.paste(part.convert(colour), (x, head))
    return sheet


def save_images(
    images: Tensor, levels: int, out: Path, render: Callable[[], Image.Image], labels: Sequence[str] = ()
) -> None:
    """Write images by the suffix of ``out``: a .png grid, an .npz of the exact levels, or a folder of PNGs.

    Args:
        images: integer levels, uint8, shape (n, C, H, W).
        levels: L.
        out: the path, which must not exist.
        render: makes the picture for a .png.
        labels: the class of each image, for an .npz; () without labels.
    """
    with atomic_write(out) as aside:
        if out.suffix.lower() == ".npz":
            with aside.open("wb") as file:
                named = {"labels": np.array(labels)} if labels else {}
                pixels = images.permute(0, 2, 3, 1).numpy()
                np.savez_compressed(file, images=pixels, levels=np.int64(levels), **named)  # type: ignore[arg-type]
        elif out.suffix.lower() == ".png":
            render().save(aside, format="PNG")
        else:
            aside.mkdir()
            for k, image in enumerate(images):
                picture(image, levels).save(aside / f"{k:06d}.png")


def save_gif(frames: Sequence[Image.Image], out: Path, seconds: float = 4.0) -> None:
    """Write an animation that lasts ``seconds`` and pauses at its last frame."""
    each = max(40, round(1000 * seconds / max(1, len(frames))))
    durations = [each] * (len(frames) - 1) + [2000]
    with atomic_write(out) as aside:
        frames[0].save(aside, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
