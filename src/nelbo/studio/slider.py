"""A slider whose box for a number takes what is typed."""

from __future__ import annotations

import gradio as gr


class Slider(gr.Slider):
    """A slider: an empty box, or a word in it, is the least value, and a number out of range the nearest in it."""

    is_template = True  # so that Gradio takes it for its own slider

    def preprocess(self, payload: float | None) -> float:
        """The value for an answer."""
        return super().preprocess(min(max(payload or 0, self.minimum), self.maximum))
