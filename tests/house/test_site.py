"""The site, built without running the course, and opened in Chromium as a reader would.

Chromium is Debian's (``apt-get install chromium``, as .ci/run does), or that of ``playwright install chromium``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

for needed in ("sphinx", "myst_nb", "furo", "latex2mathml"):
    pytest.importorskip(needed, reason="the site needs nelbo[docs]")

ROOT = Path(__file__).parents[2]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
READABLE = 4.5
"""The least contrast of text (WCAG 2.2, 1.4.3)."""


class Page(HTMLParser):
    """The links and the anchors of a page, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in has:
            self.loads.append(has["src"])
        if tag == "link" and has.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(has["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "NELBO_DOCS_RUN": "off", "PATH": path}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto", "-d", f"{folder}/trees"]
    done = subprocess.run(
        [*command, "docs", f"{folder}/html"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_every_internal_link_has_its_target(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or not link:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            lost = anchor and target in pages and anchor not in pages[target].anchors
            if not target.exists() or lost:
                missing.append(f"{path.relative_to(site)}: {link}")
    assert not missing, "\n".join(missing[:20])


def test_external_links_are_well_formed(pages: dict[Path, Page]) -> None:
    links = {link for page in pages.values() for link in page.links if urlsplit(link).scheme}
    assert all(re.fullmatch(r"(https://[\w.-]+\.\w+(/\S*)?|mailto:\S+@\S+)", link) for link in links), links


def test_a_page_loads_only_files_of_the_site(pages: dict[Path, Page]) -> None:
    assert not {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}


def test_every_function_of_the_equations_links_to_the_reference(site: Path) -> None:
    names = re.findall(r"\{py:obj\}`([\w.]+)`", (ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    linked = re.findall(
        r'href="reference/[\w/]+\.html#([\w.]+)"', (site / "equations.html").read_text(encoding="utf-8")
    )
    assert set(names) - set(linked) == set()


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page], site: Path) -> None:
    import nelbo

    page = pages[site / "reference" / "nelbo.html"]
    modules = {"objectives", "samplers", "schedules"}
    assert {f"nelbo.{name}" for name in nelbo.__all__ if name not in modules} <= page.anchors


def test_the_schemas_are_beside_the_pages(site: Path) -> None:
    import json

    import nelbo

    schemas = {path.stem: json.loads(path.read_text()) for path in (site / "schemas").glob("*.json")}
    assert set(schemas) == {"run", "score", "classification", "threshold", "evaluation", "comparison", "compression"}
    assert all(schema["$id"].endswith(nelbo.__version__) and schema["properties"] for schema in schemas.values())


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site's address on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def opened(browser: Any, scheme: str, size: dict[str, int], problems: list[str], address: str) -> Any:
    """A tab that notes errors, and requests of other hosts."""
    page = browser.new_page(color_scheme=scheme, viewport=size)
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    own = (f"{address}/", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    return page


CONTRAST = """() => {
  const number = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = number(c).slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    const n = number(c); if (n.length < 4 || n[3] > 0.99) return c; } return "rgb(255, 255, 255)"; };
  const worst = [];
  for (const e of document.querySelectorAll("article p, article li, article td, article th, article h1, article h2, "
      + "article a, article code, article pre, article pre span, article math, article dt, .sidebar-tree a")) {
    if (!e.textContent.trim() || !e.offsetParent || e.classList.contains("headerlink")) continue;
    const a = light(getComputedStyle(e).color), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const words = e.textContent.trim().slice(0, 40);
    if (ratio < LEAST) worst.push(`${ratio.toFixed(2)} ${e.tagName} ${e.className}: ${words}`);
  }
  return worst;
}"""


CUT_OFF = """() => [...document.querySelectorAll("article math")].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth) return false;
  for (let box = e; box; box = box.parentElement)
    if (getComputedStyle(box).overflowX === "auto" && box.tagName !== "HTML") return false;
  return true;
}).map(e => e.textContent.slice(0, 60))"""
"""Equations that a phone shows in part and that cannot be scrolled."""


def test_every_page_in_a_browser(chromium: Any, address: str, site: Path, pages: dict[Path, Page]) -> None:
    """No request leaves, nothing is an error, nothing is wider than a phone, text is legible in the light and dark."""
    problems: list[str] = []
    tabs = {scheme: opened(chromium, scheme, PHONE, problems, address) for scheme in ("light", "dark")}
    for path in pages:
        name = path.relative_to(site).as_posix()
        if name == "search.html":
            continue  # the next test
        for scheme, tab in tabs.items():
            tab.goto(f"{address}/{name}")
            width = tab.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                problems.append(f"{name} is {width} px wide")
            problems += [f"{name}: cut off: {equation}" for equation in tab.evaluate(CUT_OFF)]
            if path.stat().st_size < 300_000:
                low = tab.evaluate(CONTRAST.replace("LEAST", str(READABLE)))
                problems += [f"{name}, {scheme}: contrast {one}" for one in low]
    assert not problems, "\n".join(problems[:30])


def test_search_finds_ancestral(chromium: Any, address: str) -> None:
    problems: list[str] = []
    page = opened(chromium, "light", DESKTOP, problems, address)
    page.goto(f"{address}/search.html?q=ancestral")
    page.wait_for_selector("ul.search li a")
    assert page.locator("ul.search li a").count() > 3
    assert not problems
