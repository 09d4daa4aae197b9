"""A page of the strangest images, each with the bits of its pixels: self-contained HTML for phones and dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nelbo.report.page import data_uri, rendered
from nelbo.report.results import Score, Threshold
from nelbo.report.tables import score_title

COLOURS = "magma"
LEAST = 0.01
"""A term has maps if it is at least this share of the bits of all shown images."""
SHARE = 0.995
"""The share of the pixels that the scale of the colours reaches; those above have the last colour."""


class Strange(NamedTuple):
    """One image of the page.

    Attributes:
        name: its path, or its row.
        picture: the image.
        bits, stderr: bits/dim of its bound, and its Monte Carlo error.
        over: whether it is over the threshold; None without one.
        pixels: terms that are sums over pixels → bits of each pixel, summed over its channels, shape (H, W).
        others: the other terms → bits of the image.
    """

    name: str
    picture: Image.Image
    bits: float
    stderr: float
    over: bool | None
    pixels: Mapping[str, Tensor]
    others: Mapping[str, float]


def worst_page(
    images: Sequence[Strange], middle: Strange, score: Score, limit: Threshold | None, why_none: str = ""
) -> str:
    """The page.

    Args:
        images: the images, the strangest first.
        middle: the image in the middle of the order, for comparison.
        score: the score of all images, with ``over`` if there is a threshold.
        limit: the threshold; None without one.
        why_none: why there is none.
    """
    every = [*images, middle]
    scale, mapped = scale_of(every), mapped_terms(every)
    no_maps = f"No maps: the {score.form} form of the bound of this {score.family} is not a sum over pixels."
    return rendered(
        "worst.html",
        images=[shown(each, scale, mapped) for each in images],
        middle=shown(middle, scale, mapped),
        data=score.data,
        title=score_title(score),
        form=score.form,
        seed=score.seed,
        replicates=score.replicates,
        n=score.n,
        limit=limit,
        over=score.over,
        why_none=why_none,
        scale=scale,
        why_no_maps=no_maps,
        gradient=data_uri(coloured(np.linspace(0, 1, 64)[None], 1.0)),
    )


def scale_of(images: Sequence[Strange]) -> float | None:
    """The bits of the last colour: a quantile over the pixels of all terms together; None without maps."""
    totals = [together(image.pixels).flatten() for image in images if image.pixels]
    return max(float(np.quantile(torch.cat(totals).numpy(), SHARE)), 1e-6) if totals else None


def together(pixels: Mapping[str, Tensor]) -> Tensor:
    """The sum of the maps, shape (H, W)."""
    return torch.stack(list(pixels.values())).sum(0)


def mapped_terms(images: Sequence[Strange]) -> list[str]:
    """The terms with maps: those that are not negligible beside the others."""
    bits = {name: sum(float(image.pixels[name].sum()) for image in images) for name in images[0].pixels}
    return [name for name, each in bits.items() if each >= LEAST * sum(bits.values())]


def shown(image: Strange, scale: float | None, mapped: Sequence[str]) -> dict[str, object]:
    """The values of an image for the template: with several maps, that of all pixel terms comes first."""
    pixels = {name: image.pixels[name] for name in mapped}
    if len(pixels) > 1:
        pixels = {"all pixels": together(image.pixels), **pixels}
    maps = [(name, float(each.sum()), coloured(each.numpy(), scale or 1.0)) for name, each in pixels.items()]
    small = {name: float(each.sum()) for name, each in image.pixels.items() if name not in mapped}
    return {**image._asdict(), "maps": maps, "small": small}


def coloured(bits: np.ndarray, scale: float) -> Image.Image:
    """Bits as colours from 0 to ``scale``; a value beyond has the colour of the end."""
    from matplotlib import colormaps

    return Image.fromarray(colormaps[COLOURS](np.clip(bits / scale, 0, 1), bytes=True)[..., :3].copy())
