"""A canvas on which pixels of an image are marked, with the mouse, a finger, or the keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.errors import InputError
from nelbo.studio.html import image_uri

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SCRIPT = Path(__file__).parent / "assets" / "paint.js"
SHAPE = """<canvas tabindex="0" hidden role="application"
aria-label="The image. Arrow keys move, the space key marks a pixel."></canvas><p class="note" role="status"></p>"""

NOTHING = {"picture": "", "width": 0, "height": 0, "marked": ""}
"""The component's value without an image."""


def painter(name: str) -> gr.HTML:
    """The component, without an image."""
    return gr.HTML(
        NOTHING,
        html_template=SHAPE,
        js_on_load=SCRIPT.read_text(encoding="utf-8"),
        elem_id=name,
        elem_classes="painter",
    )


def painting(image: Tensor, levels: int) -> dict[str, Any]:
    """The component's value for an image, with nothing marked.

    Args:
        image: integer levels, uint8, shape (C, H, W).
        levels: L.
    """
    _, height, width = image.shape
    return {"picture": image_uri(image, levels), "width": width, "height": height, "marked": "0" * (height * width)}


def marked(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels are marked, boolean, shape (H, W).

    Args:
        value: the component's value, from a visitor.
        shape: (C, H, W) of the image.

    Raises:
        InputError: none is marked, or the value is of another image.
    """
    import numpy as np

    text = value.get("marked") if isinstance(value, dict) else None
    height, width = shape[1:]
    if not isinstance(text, str) or len(text) != height * width or set(text) - {"0", "1"}:
        raise InputError("hole", "is of another image; choose the image again")
    found = np.frombuffer(text.encode(), np.uint8).reshape(height, width) == ord("1")
    if not found.any():
        raise InputError("hole", "no pixel is marked; paint over what is to be drawn anew")
    return found
