"""``nelbo compare``: one page for several runs."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
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
    for kind in ("reconstructions", "straight lines", "one dimension", "from noise"):
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
    """Rows are stacked by style alone: a cell is labelled by the heading of its column, or by nothing for a reason."""
    own = {name: Path(shutil.copytree(path, here / name)) for name, path in runs.items()}
    call_well("score", own["vae"], "--limit", "30")
    call_well("evaluate", own["vae"], "--samples", "30", "--features", own["ae"], "--device", "cpu")
    call_well("compare", *own.values(), "--out", "report")
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
            assert row.count("") in (0, 1)
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
    assert ddpm["diffusion_profile"]["bits"] == pytest.approx(expected.tolist())
    assert vae["diffusion_profile"] is None


def test_samples_that_were_measured_are_shown(runs: dict[str, Path], here: Path) -> None:
    call_well("evaluate", runs["vae"], "--samples", "30", "--features", runs["ae"], "--device", "cpu")
    call_well("compare", runs["vae"], "--out", "report")
    (vae,) = json.loads(Path("report/compare.json").read_text())["runs"]
    distance = vae["samples"]["quality"]["FD-ae-digits"]["value"]
    assert f"{distance:,.3f}" in Path("report/index.html").read_text()
    speed = vae["samples"]["samples"] / vae["samples"]["drawing_seconds"]
    assert f">{speed:,.1f}</td>" in Path("report/index.html").read_text()
    assert vae["samples"]["features_sha256"][:12] in Path("report/index.html").read_text()


@pytest.fixture
def pair(runs: dict[str, Path], here: Path) -> tuple[Path, Path]:
    """A ddpm that was scored on 20 and on 30 images, and a vae that was scored on 10: nothing in common."""
    ddpm = Path(shutil.copytree(runs["ddpm"], here / "ddpm"))
    vae = Path(shutil.copytree(runs["vae"], here / "vae"))
    call_well("score", vae, "--limit", "10", "--device", "cpu")
    return ddpm, vae


def test_scores_of_other_images_are_neither_ranked_nor_subtracted(pair: tuple[Path, Path]) -> None:
    """One line says so, on the page, in JSON and on stderr, with each run's data, split and n."""
    answer = call_well("compare", *pair, "--json")
    found = json.loads(answer.out)
    assert found["differences"] == []
    said = "(ddpm: digits 1×8×8, 17 levels, test, 30 images; vae: digits 1×8×8, 17 levels, test, 10 images)"
    assert said in found["unlike"]
    assert "--score" in found["unlike"]
    page = Path("compare/index.html").read_text()
    assert said in answer.err
    assert said in page
    assert "<h1>2 runs</h1>" in page
    assert "digits 1×8×8, test, 10" in page


def test_the_widest_images_in_common_are_shown(pair: tuple[Path, Path]) -> None:
    """Of 20 and 30 beside 10 and 20: both on 20, with their difference."""
    call_well("score", pair[1], "--limit", "20", "--device", "cpu")
    found = json.loads(call_well("compare", *pair, "--json").out)
    assert [run["score"]["n"] for run in found["runs"]] == [20, 20]
    assert found["unlike"] is None
    assert len(found["differences"]) == 1
    assert "on the same images" in Path("compare/index.html").read_text()


@pytest.mark.parametrize(("more", "n"), [((), 30), (("--limit", "15"), 15)])
def test_what_is_missing_is_scored_when_asked(pair: tuple[Path, Path], more: tuple[str, ...], n: int) -> None:
    """Under one protocol, as 'score' does it; what is kept is not computed again."""
    before = {file: file.stat().st_mtime_ns for run in pair for file in (run / "scores").glob("*.json")}
    found = json.loads(call_well("compare", *pair, "--score", *more, "--json").out)
    assert found["unlike"] is None
    for run, facts in zip(pair, found["runs"], strict=True):
        expected = json.loads(call_well("score", run, "--limit", str(n), "--json").out)
        assert facts["score"] == expected | {"file": facts["score"]["file"]}
        assert (expected["n"], expected["seed"], expected["split"]) == (n, 0, "test")
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert [pair["n"] for pair in found["differences"]] == [n]


def test_runs_of_different_data_are_not_ranked(pair: tuple[Path, Path], colour_run: Path) -> None:
    """3×10×14 beside 1×8×8, scored or not."""
    colour = Path(shutil.copytree(colour_run, "colour_run"))
    for more in ((), ("--score", "--limit", "1")):
        found = json.loads(call_well("compare", pair[0], colour, *more, "--json").out)
        assert "colour 3×10×14, 256 levels, test" in found["unlike"]
        assert "different data cannot be compared" in found["unlike"]
        assert found["differences"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "RUN"),
        (("RUN", "--limit", "3"), "--limit"),
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


def test_the_error_of_a_difference_counts_copies_as_one(here: Path) -> None:
    """10 images three times each: by hand, from the sums of the differences over each image's copies."""
    images = np.random.default_rng(0).integers(0, 17, (70, 8, 8), dtype=np.uint8)
    np.savez("own.npz", x_train=images[:60], x_test=np.concatenate([images[60:]] * 3))
    own = ("--data", "own.npz", "--levels", "17", "--widths", "8", "8", "--steps", "2", "--device", "cpu")
    for seed in ("0", "1"):
        call_well("train", "vae", *own, "--seed", seed, "--out", f"run-{seed}")
        call_well("score", f"run-{seed}", "--device", "cpu")
    (pair,) = json.loads(call_well("compare", "run-0", "run-1", "--json").out)["differences"]
    a, b = (np.load(next((here / f"run-{seed}" / "scores").glob("*.npy"))) for seed in (0, 1))
    difference = (a - b).astype(float) / (64 * math.log(2))
    sums = (difference - difference.mean()).reshape(3, 10).sum(0)
    assert pair["stderr"] == pytest.approx(math.sqrt(10 / 9 * (sums**2).sum()) / 30)
    assert pair["stderr"] > 1.2 * difference.std(ddof=1) / math.sqrt(30), "as 30 images they would claim less"
