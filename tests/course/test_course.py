"""The course: every chapter runs from top to bottom, its right answer passes, and every wrong answer fails."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import math
import os
import re
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from notebooks import CHAPTERS, FOLDED, HIDDEN, ROOT, main, notebook
from solutions import SOLUTIONS

import nelbo
from nelbo.course import UNANSWERED, turn

STEMS = [path.stem for path in CHAPTERS]
LONGEST = ("16-mnist", "18-your-own-images")
"""Chapters that train for a minute; `make course-test` and `make docs` run them too, the ordinary tests do not."""
WRONG = [(stem, k) for stem, solution in SOLUTIONS.items() for k in range(len(solution.wrong))]
MOST_SENTENCES = 14
LONGEST_TURN = 5.0
"""Seconds of one core in which a turned control draws."""

Turned = list[tuple[Callable[..., None], dict[str, Any]]]
"""Each drawing function with its controls."""


@pytest.fixture(autouse=True, scope="module")
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, no windows, and an empty folder to work in."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    mpl.use("agg")
    with contextlib.chdir(tmp_path_factory.mktemp("course")):
        yield
    plt.close("all")
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


class Ran(NamedTuple):
    """A chapter that has run.

    Attributes:
        names: its variables after the last cell.
        said: what the cells printed.
        pictures: the number of figures and of pictures that ended a cell.
        check: the code of the check.
        turned: what is drawn by which controls.
    """

    names: dict[str, Any]
    said: str
    pictures: int
    check: str
    turned: Turned


def tagged(book: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """The cells with this tag."""
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


def ran(stem: str) -> Ran:
    """A chapter after its run; it runs once, also if it fails."""
    if stem in LONGEST and "NELBO_COURSE_ALL" not in os.environ:
        pytest.skip("make course-test runs it")
    outcome = attempt(stem)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@functools.cache
def attempt(stem: str) -> Ran | Exception:
    """Run a chapter; returns what happened."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a tensor as an array in matplotlib
        try:
            return run_chapter(stem)
        except Exception as error:
            return error


def run_chapter(stem: str) -> Ran:
    """Run the cells in this process, which has imported torch already; Colab's cell is left out."""
    book, names, said, pictures = notebook(path_of(stem)), {"__name__": "__main__"}, io.StringIO(), 0
    turned: Turned = []
    for cell in book.cells:
        if cell.cell_type != "code" or HIDDEN in cell.metadata.get("tags", []):
            continue
        with patch("nelbo.course.turn", noting(turned)), contextlib.redirect_stdout(said), quiet():
            shown = run_cell(cell.source, names, f"{stem}.py")
        assert shown is None or hasattr(shown, "_repr_html_") or hasattr(shown, "_repr_png_"), f"{stem}: {shown!r}"
        pictures += len(plt.get_fignums()) + (shown is not None)
        plt.close("all")
    (check,) = tagged(book, "check")
    return Ran(names, said.getvalue(), pictures, check.source, turned)


def quiet() -> contextlib.redirect_stderr[io.StringIO]:
    """Progress is not shown."""
    return contextlib.redirect_stderr(io.StringIO())


def noting(turned: Turned) -> Callable[..., None]:
    """``turn``, which also notes what is drawn by which controls."""

    def noted(draw: Callable[..., None], **controls: Any) -> None:
        turned.append((draw, controls))
        turn(draw, **controls)

    return noted


def ends(controls: dict[str, Any]) -> list[dict[str, Any]]:
    """Values for all controls, in which every slider is at both of its ends, and every menu at each of its words."""

    def values(control: Any) -> list[Any]:
        if isinstance(control, float | int | str):
            return [control]
        return list(control) if isinstance(control[0], str) else list(control[1:])

    columns = {name: values(control) for name, control in controls.items()}
    count = max(len(column) for column in columns.values())
    return [{name: column[k % len(column)] for name, column in columns.items()} for k in range(count)]


def is_drawn(figure: plt.Figure) -> bool:
    """Whether the figure can be rendered, shows something, and no line or picture in it has a NaN."""
    figure.draw_without_rendering()
    lines = [np.asarray(line.get_ydata(), float) for ax in figure.axes for line in ax.lines]
    pictures = [np.ma.filled(image.get_array().astype(float), np.nan) for ax in figure.axes for image in ax.images]
    return any(ax.has_data() for ax in figure.axes) and not any(np.isnan(part).any() for part in lines + pictures)


def run_cell(source: str, names: dict[str, Any], file: str) -> Any:
    """Run a cell; returns the value of a last expression, which a notebook would show."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, file, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), file, "eval"), names)


def path_of(stem: str) -> Path:
    """A chapter's file."""
    return next(path for path in CHAPTERS if path.stem == stem)


def checked(stem: str, answer: str) -> str:
    """What the check prints about this answer."""
    chapter, said = ran(stem), io.StringIO()
    names = {**chapter.names, "math": math}
    exec(compile(answer, f"{stem}, answer", "exec"), names)
    with contextlib.redirect_stdout(said):
        exec(compile(chapter.check, f"{stem}, check", "exec"), names)
    return said.getvalue()


def test_every_chapter_has_a_solution_and_every_solution_a_chapter() -> None:
    assert list(SOLUTIONS) == STEMS
    assert [stem[:2] for stem in STEMS] == [f"{k:02d}" for k in range(1, 19)]


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_runs_with_a_picture_and_an_open_exercise(stem: str) -> None:
    chapter = ran(stem)
    assert chapter.pictures >= 1
    assert UNANSWERED in chapter.said
    assert "Right." not in chapter.said


@pytest.mark.parametrize("stem", STEMS)
def test_every_control_draws_at_its_ends(stem: str) -> None:
    """After the whole chapter has run, as a student turns it."""
    turned = ran(stem).turned
    assert turned
    for draw, controls in turned:
        for values in ends(controls):
            start = time.process_time()
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a tensor as an array in matplotlib
                draw(**values)
                assert plt.get_fignums(), values
                assert all(is_drawn(plt.figure(number)) for number in plt.get_fignums()), values
            plt.close("all")
            assert time.process_time() - start < LONGEST_TURN, values


@pytest.mark.parametrize("stem", STEMS)
def test_the_right_answer_passes(stem: str) -> None:
    said = checked(stem, SOLUTIONS[stem].right)
    assert "Right." in said
    assert UNANSWERED not in said


@pytest.mark.parametrize(("stem", "k"), WRONG)
def test_a_wrong_answer_fails_with_a_hint(stem: str, k: int) -> None:
    with pytest.raises(AssertionError, match=r"Not yet\. .{20}|The answer "):
        checked(stem, SOLUTIONS[stem].wrong[k])


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_has_its_parts(stem: str) -> None:
    book = notebook(path_of(stem))
    title = book.cells[1].source
    assert title.startswith(f"# {int(stem[:2])}. ")
    assert 9 <= len(re.findall(r"[.?](?=\s|$)", title.partition("\n")[2])) <= MOST_SENTENCES
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    for heading in ("## The equations", "## Exercise", "## Where this goes"):
        assert heading in prose
    assert "$$" in prose
    assert "# Change this and run again: " in code
    assert "turn(" in code
    assert len(tagged(book, "exercise")) == 1
    (check,) = tagged(book, "check")
    assert check.metadata.items() >= FOLDED.items()  # it has the hint and the truth
    assert "hide-input" in check.metadata.tags


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_installs_this_release_in_colab_and_links_to_its_tag(stem: str) -> None:
    book = notebook(path_of(stem))
    nbformat.validate(book)
    install = book.cells[0].source
    assert '"google.colab" in sys.modules' in install
    assert f"%pip install --quiet nelbo=={nelbo.__version__}" in install
    (badge,) = tagged(book, "badge")
    source = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
    assert f"/{source.split('/', 3)[-1]}/blob/v{nelbo.__version__}/" in badge.source
    assert f"/{stem}.ipynb" in badge.source


def test_all_notebooks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nSource = "https://example.org/a/b"', encoding="utf-8")
    main()
    files = sorted((tmp_path / "build" / "course").iterdir())
    assert [file.stem for file in files] == STEMS
    assert all(json.loads(file.read_text(encoding="utf-8"))["nbformat"] == 4 for file in files)


@pytest.mark.skipif(os.environ.get("NELBO_COURSE_LONG") == "1", reason="the band of digits")
def test_the_score_of_the_model_that_was_coded_by_hand_lies_in_the_band() -> None:
    assert "your model is inside" in ran("16-mnist").said


def test_the_odd_image_is_the_most_expensive() -> None:
    names = ran("18-your-own-images").names
    assert int(names["scores"](names["inbox"]).argmax()) == names["odd"]
