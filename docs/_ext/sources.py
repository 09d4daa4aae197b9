"""What pages show that is not in docs/: links to other files of the project, and chapters as notebooks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

DOCS = Path(__file__).parents[1]
COURSE = DOCS / "course"
PAGES = {"bench/RESULTS.md": "speed.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
"""Files of the project that are pages of the site."""
EQUATION = re.compile(r"\$\$.+?\$\$", re.DOTALL)
LINK = re.compile(r"\]\((?:\.\./)+([\w./-]+)\)")


def with_links(text: str, source: str, depth: int = 0) -> str:
    """A page whose links to files outside docs/ are links to pages of the site, or to the repository.

    Args:
        text: the page.
        source: the address of the repository.
        depth: the number of folders between docs/ and the page.
    """

    def link(found: re.Match[str]) -> str:
        if found[0].count("../") <= depth:
            return found[0]
        page = PAGES.get(found[1])
        return f"]({'../' * depth}{page})" if page else f"]({source}/blob/main/{found[1]})"

    return LINK.sub(link, text)


def read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Change the links of a page as it is read; the first page lists the chapters."""
    content[0] = with_links(content[0], app.config.nelbo_source, docname.count("/"))
    if docname == "index":
        chapters = sorted(path.stem for path in COURSE.glob("[0-9][0-9]-*.py"))
        content[0] = content[0].replace("course/CHAPTERS\n", "".join(f"course/{name}\n" for name in chapters))


def chapter(text: str) -> Any:
    """The notebook of the chapter with this text."""
    sys.path.insert(0, str(COURSE))
    from notebooks import CHAPTERS, notebook  # type: ignore[import-not-found]

    (path,) = (path for path in CHAPTERS if path.read_text(encoding="utf-8") == text)
    book = notebook(path)
    for cell in book.cells:
        if cell.cell_type == "markdown":  # a line of an equation that starts with + is not a list
            cell.source = EQUATION.sub(lambda found: found[0].replace("\n", " "), cell.source)
    return book


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listen to the reading of pages."""
    app.add_config_value("nelbo_source", "", "env")
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
