"""How the user wants the images read, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nelbo.errors import InputError, nearest

Fit = Literal["crop", "pad", "resize"]
SplitBy = Literal["hash", "rank"]
FITS: tuple[str, ...] = get_args(Fit)
Layout = Literal["nhw", "nhwc", "nchw", "hwc", "chw"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


@dataclass(frozen=True)
class Options:
    """What can be asked of any source of images.

    Args:
        size: (H, W) in pixels that every image shall have, or None to keep what they have.
        fit: how an image of another size is brought to ``size``.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha; None keeps what they have.
        levels: the number of values a pixel can take, if not what the source says.
        holdout: the share of the distinct images that goes to each split that the source does not name.
        skip_bad: leave images out that cannot be read, rather than stop.
        progress: show a bar on stderr; None: if stderr is a terminal.
        layout: the axes of an array, where its shape does not say: n images, h rows, w columns, c channels.
        split_by: how the splits that the source lacks are made, see :func:`nelbo.data.splits.by_content`.

    Raises:
        InputError: a value is out of its range.
    """

    size: tuple[int, int] | None = None
    fit: Fit | None = None
    channels: int | None = None
    levels: int | None = None
    holdout: float = 0.1
    skip_bad: bool = False
    progress: bool | None = None
    layout: Layout | None = None
    split_by: SplitBy = "hash"

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError("size", f"{self.size} is not a height and a width; write it as HxW, both at least 1")
        if self.fit is not None and self.fit not in FITS:
            raise InputError("fit", f"{self.fit!r} is none of {', '.join(FITS)}{nearest(self.fit, FITS)}")
        if self.fit is not None and self.size is None:
            raise InputError("fit", f"{self.fit} needs a size to fit to; add `size` HxW")
        if self.channels is not None and self.channels not in (1, 2, 3, 4):
            raise InputError("channels", f"{self.channels} is not 1, 2, 3 or 4")
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise InputError("levels", f"{self.levels} is not between 2 and 256")
        if self.layout is not None and self.layout not in LAYOUTS:
            listed = ", ".join(LAYOUTS)
            raise InputError("layout", f"{self.layout!r} is none of {listed}{nearest(self.layout, LAYOUTS)}")
        if not 0 < self.holdout < 0.5:
            raise InputError("holdout", f"{self.holdout} is not between 0 and 0.5 (the usual is 0.1)")
