"""The course's notebooks, made from the chapters, which are percent scripts of jupytext.

``notebook(path)`` is used by the site, by the tests, and by ``make course``, which writes all of them to build/course.
The address in Colab is that of the file in the repository at the release's tag: a release adds build/course to its tag.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

import nelbo

ROOT = Path(__file__).resolve().parents[2]
OUT = Path("build/course")
CHAPTERS = sorted(Path(__file__).parent.glob("[0-9][0-9]-*.py"))
HIDDEN = "remove-cell"
"""The tag of cells that a page of the site does not show."""
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""What folds a cell in Colab and in JupyterLab, so that it runs, and shows its code only if asked."""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def colab_address(path: Path) -> str:
    """The address that opens a chapter's notebook in Colab, at the release's tag."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = "/".join(project["urls"]["Source"].rstrip("/").split("/")[-2:])
    file = (OUT / path.name).with_suffix(".ipynb").as_posix()
    return f"https://colab.research.google.com/github/{repository}/blob/v{nelbo.__version__}/{file}"


def install_cell() -> str:
    """Code that installs this release in Colab, and does nothing elsewhere."""
    return f'import sys\n\nif "google.colab" in sys.modules:\n    %pip install --quiet nelbo=={nelbo.__version__}'


def notebook(path: Path) -> nbformat.NotebookNode:
    """A chapter's notebook: its cells, the link to Colab after the title, and first of all the installation.

    Args:
        path: the chapter, docs/course/NN-name.py.
    """
    book = jupytext.read(path, fmt="py:percent")
    badge = new_markdown_cell(f"[**Open in Colab**]({colab_address(path)})", metadata={"tags": ["badge"]})
    title, *rest = book.cells
    install = new_code_cell(install_cell(), metadata={"tags": [HIDDEN]})
    book.cells = [install, title, badge, *rest]
    for number, cell in enumerate(book.cells):
        cell.id = f"{path.stem}-{number}"  # the same notebook in every build
    for cell in book.cells:
        if "check" in cell.metadata.get("tags", []):  # the hint and the truth are in it
            cell.source = f"# @title Check the answer\n{cell.source}"
            cell.metadata.update(FOLDED, tags=[*cell.metadata.tags, "hide-input"])
    book.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    return book


def main() -> None:
    """Write every chapter's notebook."""
    folder = ROOT / OUT
    folder.mkdir(parents=True, exist_ok=True)
    for path in CHAPTERS:
        nbformat.write(notebook(path), folder / f"{path.stem}.ipynb")
    print(f"{len(CHAPTERS)} notebooks in {folder.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
