"""``nelbo compare``: one page for several runs."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from machine_helpers import call, call_well, train_tiny
from PIL import Image

from nelbo.jobs.run import Run, load
from nelbo.jobs.sample import real_images
from nelbo.metrics import score_profile
from nelbo.report.pictures import grid

COMMON = ("--batch-size", "8", "--device", "cpu", "--precision", "fp32", "--steps", "6", "--widths", "8", "8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ddpm that is scored, a vae that is not, and an ae, which has no bound."""
    folder = tmp_path_factory.mktemp("compare")
    found = {"ddpm": train_tiny(folder / "d<d>pm", steps=6)}
    call_well("score", found["ddpm"], "--limit", "20")
    call_well("score", found["ddpm"], "--limit", "30")
    for family in ("vae", "ae"):
        found[family] = folder / family
        call_well("train", family, *COMMON, "--latent", "2", "--out", found[family])
    call_well("score", found["ae"], "--limit", "20")
    return found


class Tags(HTMLParser):
    """Every tag with its attributes, and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_has_the_numbers_that_were_scored(runs: dict[str, Path], here: Path) -> None:
    call_well("compare", *runs.values(), "--out", "report")
    page, kept = Path("report/index.html").read_text(), json.loads(Path("report/compare.json").read_text())
    scores = [json.loads(file.read_text()) for file in (runs["ddpm"] / "scores").glob("test-*.json")]
    widest = max((score for score in scores if score["kind"] == "bound"), key=lambda score: score["n"])
    ddpm, vae, ae = kept["runs"]
    assert (ddpm["score"]["n"], ddpm["score"]["bits_per_dim"]) == (30, widest["bits_per_dim"])
    assert f"<b>{widest['bits_per_dim']:,.4f}</b>" in page
    for term in widest["terms"].values():
        assert f"{term['bits_per_dim']:,.4f}" in page
    assert vae["score"] is None
    assert "not scored yet" in page
    assert ae["score"]["bits_per_dim"] is None
    assert "no bits/dim: an autoencoder" in page
    assert "d&lt;d&gt;pm" in page  # a name is text, not markup
    assert "d<d>pm" not in page


def test_the_samples_are_those_of_the_runs(runs: dict[str, Path], here: Path) -> None:
    call_well("compare", runs["vae"], runs["ae"], "--out", "report")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)" alt="samples of', Path("report/index.html").read_text())
    for name, text in zip(("vae", "ae"), pictures, strict=True):
        model = load(runs[name])
        expected = grid(model.sample(36), model.levels)
        shown = Image.open(io.BytesIO(base64.b64decode(text)))
        assert shown.tobytes() == expected.tobytes()
    (text,) = re.findall(
        r'src="data:image/png;base64,([^"]+)" alt="real images, digits, test"', Path("report/index.html").read_text()
    )
    real = grid(real_images(Run(runs["vae"]).dataset, "test", 36), 17)
    assert Image.open(io.BytesIO(base64.b64decode(text))).tobytes() == real.tobytes()


def test_the_page_needs_nothing_else_and_is_the_same_again(runs: dict[str, Path], here: Path) -> None:
    call_well("compare", *runs.values(), "--out", "one")
    call_well("compare", *runs.values(), "--out", "two")
    call_well("compare", *runs.values(), "--out", "one")  # over its own page
    one, two = (Path(name, "index.html").read_bytes() for name in ("one", "two"))
    assert one == two
    tags = Tags()
    tags.feed(one.decode())
    for tag, attributes in tags.found:
        assert tag not in ("script", "link", "iframe")
        source = attributes.get("src") or ""
        assert source.startswith("data:") or not source
    assert sum(tag == "svg" for tag, _ in tags.found) == 3  # terms, bits over t, training
    titles = [attributes["alt"] or "" for tag, attributes in tags.found if tag == "img"]
    assert sum(title.startswith("samples of") for title in titles) == 3
    for kind in ("reconstructions", "straight lines", "one dimension", "on the way from noise"):
        assert any(kind in title for title in titles)
    shown = json.loads(call_well("compare", runs["vae"], "--out", "three", "--json").out)
    assert [run["family"] for run in shown["runs"]] == ["vae"]


class Tables(HTMLParser):
    """Of each table the headings, and of each row the labels of its cells, once for each column that a cell spans."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[list[str]] = []
        self.rows: list[list[list[str]]] = []
        self.in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.in_heading = tag == "th"
        if tag == "table":
            self.headings.append([])
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append([])
        elif tag == "td":
            self.rows[-1][-1] += [known["data-label"] or ""] * int(known.get("colspan") or 1)

    def handle_data(self, data: str) -> None:
        if self.in_heading and data.strip():
            self.headings[-1].append(data.strip())


def test_on_a_narrow_screen_every_cell_says_its_column(runs: dict[str, Path], here: Path) -> None:
    """Rows are stacked by style alone: the label of a cell is the heading of its column, or none where it spans two."""
    call_well("score", runs["vae"], "--limit", "30")
    call_well("score", runs["vae"], "--samples", "30", "--features", runs["ae"], "--device", "cpu")
    call_well("compare", *runs.values(), "--out", "report")
    text = Path("report/index.html").read_text(encoding="utf-8")
    tables = Tables()
    tables.feed(text)
    assert len(tables.headings) == 3  # runs, differences, samples
    for headings, rows in zip(tables.headings, tables.rows, strict=True):
        labelled = [row for row in rows if row]
        assert labelled
        for row in labelled:
            assert len(row) == len(headings)
            assert all(label in (heading, "") for label, heading in zip(row, headings, strict=True))
            assert row.count("") in (0, 2)
    narrow = text[text.index("@media screen and (max-width:") : text.index("@page")]
    assert "content: attr(data-label)" in narrow
    assert "thead" in narrow


def test_two_scores_of_the_same_images_have_a_difference(runs: dict[str, Path], here: Path) -> None:
    """run − other, image by image, from the tables that --per-image writes; ± the spread over √n."""
    other = here / "vae"
    call_well("train", "vae", *COMMON, "--latent", "2", "--out", other)
    tables = []
    for path in (runs["ddpm"], other):
        call_well("score", path, "--limit", "30", "--per-image", f"{path.name}.csv")
        rows = Path(f"{path.name}.csv").read_text().splitlines()
        column = rows[0].split(",").index("total_bits_per_dim")
        tables.append([float(row.split(",")[column]) for row in rows[1:]])
    call_well("compare", runs["ddpm"], other, "--out", "report")
    (pair,) = json.loads(Path("report/compare.json").read_text())["differences"]
    each = np.array(tables[0]) - np.array(tables[1])
    assert (pair["run"], pair["other"], pair["n"]) == (runs["ddpm"].name, "vae", 30)
    assert pair["value"] == pytest.approx(each.mean(), abs=2e-6)  # six decimals in the tables
    assert pair["stderr"] == pytest.approx(each.std(ddof=1) / 30**0.5, rel=1e-4)
    assert f"{pair['value']:+,.4f}" in Path("report/index.html").read_text()


def test_the_bits_over_t_are_those_of_the_profile(runs: dict[str, Path], here: Path) -> None:
    call_well("compare", runs["ddpm"], runs["vae"], "--out", "report")
    ddpm, vae = json.loads(Path("report/compare.json").read_text())["runs"]
    run = Run(runs["ddpm"])
    expected = score_profile(run.model(), run.dataset.split("test")[:64], pieces=32).bits()[0]
    assert ddpm["over_t"]["bits"] == pytest.approx(expected.tolist())
    assert vae["over_t"] is None


def test_samples_that_were_measured_are_shown(runs: dict[str, Path], here: Path) -> None:
    call_well("score", runs["vae"], "--samples", "30", "--features", runs["ae"], "--device", "cpu")
    call_well("compare", runs["vae"], "--out", "report")
    (vae,) = json.loads(Path("report/compare.json").read_text())["runs"]
    distance = vae["samples"]["quality"]["FD-ae-digits"]["value"]
    assert f"{distance:,.3f}" in Path("report/index.html").read_text()
    speed = vae["samples"]["samples"] / vae["samples"]["drawing_seconds"]
    assert f">{speed:,.1f}</td>" in Path("report/index.html").read_text()
    assert vae["samples"]["features_sha256"][:12] in Path("report/index.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "RUN"),
        (("nowhere",), "nowhere"),
        (("RUN", "--out", "mine"), "--out"),
        (("RUN", "--split", "tets"), "--split"),
    ],
)
def test_what_cannot_be_compared_is_said(runs: dict[str, Path], here: Path, words: tuple[str, ...], said: str) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    answer = call("compare", *(runs["vae"] if word == "RUN" else word for word in words))
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
