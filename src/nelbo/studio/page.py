"""The page: the chosen run above, and a tab for each screen."""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from nelbo.studio import screens
from nelbo.studio.answers import WARM
from nelbo.studio.studio import Screen, Studio

ASSETS = Path(__file__).parent / "assets"
TITLE = "nelbo studio"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
DIM, STRONG = "#475569", "#1d4ed8"
"""Colours with a contrast of at least 4.5 on white, and below white text."""
REMEMBERED = """() => {
  const words = new URLSearchParams(location.hash.slice(1));
  window.nelboArrived = true;
  return [words.get('screen') || '', words.get('run') || ''];
}"""
"""The screen and the run in the address, so that a reload keeps both. What is selected before is not a choice."""
KEEP_RUN = "(run) => { if (window.nelboArrived) { window.nelboRun = run || ''; window.nelboChosen?.(); } }"
"""The page's own script may come after the first choice."""


def all_screens() -> list[Screen]:
    """Every screen of the room ``screens``, in order."""
    names = (module.name for module in pkgutil.iter_modules(screens.__path__))
    modules = (importlib.import_module(f"{screens.__name__}.{name}") for name in names)
    return sorted(module.SCREEN for module in modules)


def theme() -> Any:
    """A theme with the fonts of the system: a font from elsewhere would be a request to another host."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.slate, font=FONTS, font_mono=MONO
    )
    return base.set(
        body_text_color_subdued=DIM,
        block_info_text_color=DIM,
        block_label_text_color=DIM,
        block_title_text_color="#334155",
        input_placeholder_color=DIM,
        button_primary_background_fill=STRONG,
        button_primary_background_fill_hover="#1e40af",
        button_primary_background_fill_dark=STRONG,
        button_primary_background_fill_hover_dark="#2563eb",
    )


def build_page(studio: Studio) -> gr.Blocks:
    """The page with all screens."""
    found = all_screens()
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as page:
        gr.HTML("<h1>nelbo studio</h1>", elem_id="head")
        with gr.Row(elem_id="chooser"):
            studio.run = gr.Dropdown(
                choices=studio.run_choices(),
                value=None,
                label="Run",
                elem_id="run",
                filterable=False,
                scale=5,
            )
            refresh = gr.Button("Refresh", elem_id="refresh", scale=1, min_width=100)
        words = [gr.Textbox(visible="hidden", elem_id=f"{name}-word") for name in ("screen", "run")]
        with gr.Tabs(elem_id="screens", overflow_behavior="wrap") as tabs:
            for each in found:
                with gr.Tab(each.title, id=each.name, elem_id=f"screen-{each.name}") as tab:
                    studio.tab = tab
                    each.build(studio)
        names = [each.name for each in found]
        hidden = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(None, js=(ASSETS / "page.js").read_text(encoding="utf-8"))
        page.load(partial(arrived, studio, names), words, [tabs, studio.run], js=REMEMBERED, **hidden)
        page.load(partial(data_lists, studio), None, studio.data, **hidden)
        refresh.click(partial(refreshed, studio), [studio.run], [studio.run], **hidden)
        studio.run.change(None, [studio.run], js=KEEP_RUN)
    return page


def arrived(studio: Studio, names: list[str], screen: str, run: str) -> list[Any]:
    """The screen and the run that were shown before a reload."""
    tab = gr.Tabs(selected=screen) if screen in names else gr.skip()
    return [tab, refreshed(studio, run)]


def data_lists(studio: Studio) -> Any:
    """The lists of data."""
    WARM.wait()
    found = [gr.Dropdown(choices=studio.data_choices())] * len(studio.data)
    return found if len(found) > 1 else found[0]


def refreshed(studio: Studio, run: str | None) -> Any:
    """The list of runs; the chosen one stays if it is still there, else it is the latest."""
    choices = studio.run_choices()
    paths = [path for _, path in choices]
    chosen = run if run in paths else next(iter(paths), None)
    return gr.Dropdown(choices=choices, value=chosen)
