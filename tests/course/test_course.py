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
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from notebooks import CHAPTERS, FOLDED, HIDDEN, ROOT, main, notebook
from solutions import SOLUTIONS

import nelbo
from nelbo.course import UNANSWERED

STEMS = [path.stem for path in CHAPTERS]
WRONG = [(stem, k) for stem, solution in SOLUTIONS.items() for k in range(len(solution.wrong))]
MOST_SENTENCES = 14


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
    """

    names: dict[str, Any]
    said: str
    pictures: int
    check: str


def tagged(book: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """The cells with this tag."""
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


def ran(stem: str) -> Ran:
    """A chapter after its run; it runs once, also if it fails."""
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
    for cell in book.cells:
        if cell.cell_type != "code" or HIDDEN in cell.metadata.get("tags", []):
            continue
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            shown = run_cell(cell.source, names, f"{stem}.py")
        assert shown is None or hasattr(shown, "_repr_html_") or hasattr(shown, "_repr_png_"), f"{stem}: {shown!r}"
        pictures += len(plt.get_fignums()) + (shown is not None)
        plt.close("all")
    (check,) = tagged(book, "check")
    return Ran(names, said.getvalue(), pictures, check.source)


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
