"""``nelbo score --worst``: the page of the strangest images, and the threshold that is kept in the run."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine_helpers import call, call_well, train_tiny, write_pictures

from nelbo.jobs import sharded

FAST = ("--timesteps", "2", "--limit", "12")


class Seen(HTMLParser):
    """What a page loads, its headings, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.sections = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sections += tag == "section"
        self.sources += [str(values[name]) for name in ("src", "href") if name in values]
        self.alts += [str(values["alt"])] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(path: str | Path) -> Seen:
    """A page that loads nothing from elsewhere."""
    text = Path(path).read_text(encoding="utf-8")
    found = Seen(text)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert not re.search(r"@import|url\(|<script|<link", text)
    return found


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kept_threshold(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "scores" / "threshold.json").read_text()))


def test_the_threshold_is_a_score_of_val_and_marks_images(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By brute force over the table of val; then, without scoring val again, in the table of other images."""
    answer = call_well("score", own_run, *FAST, "--worst", "3", "--false-alarms", "0.05", "--out", "page.html")
    assert answer.out.splitlines()[-1] == "page.html"
    limit = kept_threshold(own_run)
    call_well("score", own_run, "--timesteps", "2", "--split", "val", "--per-image", "val.csv")
    val = sorted((float(row["total_bits_per_dim"]) for row in rows_of("val.csv")), reverse=True)
    assert (limit["n"], limit["rank"], limit["false_alarms"]) == (len(val), int(0.05 * 180), 0.05)
    assert limit["bits_per_dim"] == pytest.approx(val[8], abs=1e-6)
    assert limit["low"] < 9 / 180 < limit["high"]
    assert [row["over_threshold"] for row in rows_of("val.csv")].count("1") == 8

    calls, honest = [], sharded.score_likelihood

    def counted(*values: Any, **named: Any) -> Any:
        calls.append(1)
        return honest(*values, **named)

    monkeypatch.setattr(sharded, "score_likelihood", counted)
    shown = call_well("score", own_run, *FAST, "--per-image", "rows.csv", "--json")
    assert len(calls) == 1
    rows, found = rows_of("rows.csv"), json.loads(shown.out)
    over = [float(row["total_nats"]) > limit["nats"] for row in rows]
    assert [row["over_threshold"] == "1" for row in rows] == over
    assert (found["over"], found["threshold"]) == (sum(over), limit)
    table = call_well("score", own_run, *FAST, "--per-image", "again.csv").out
    assert f"{sum(over)} of 12" in table


def test_the_page_shows_the_images_of_the_highest_scores(own_run: Path) -> None:
    """In order, with their bits, each with a map for every term, and with the threshold; it loads nothing."""
    call_well("score", own_run, *FAST, "--worst", "2", "--out", "page.html", "--per-image", "rows.csv")
    rows, page = sorted(rows_of("rows.csv"), key=lambda row: -float(row["total_nats"])), page_of("page.html")
    assert page.sections == 3
    bits = re.findall(r"(\d+\.\d{4}) ± \d+\.\d{4} bits/dim", " ".join(page.text.split()))
    assert bits == [f"{float(rows[i]['total_bits_per_dim']):.4f}" for i in (0, 1, 6)]
    assert f"{kept_threshold(own_run)['bits_per_dim']:.4f}" in page.text
    maps = {alt.removeprefix("bits of each pixel, ") for alt in page.alts if alt.startswith("bits")}
    assert all(page.alts.count(f"bits of each pixel, {name}") == 3 for name in maps)
    small = re.findall(r"(\w+) -?\d+\.\d bits", page.text)
    assert sorted(maps | {*small}) == ["all pixels", "cluster", "diffusion", "prior", "reconstruction"]
    assert all(small.count(name) == (0 if name in maps else 3) for name in (*maps, *small))
    costs = [float(row["cluster_bits_per_dim"]) * 64 for row in rows]
    assert re.findall(r"cluster (\d+\.\d) bits", page.text) == [f"{costs[i]:.1f}" for i in (0, 1, 6)]


def test_more_than_there_are_is_all_and_the_page_lies_in_the_run(own_run: Path) -> None:
    words = ("--timesteps", "1", "--limit", "3", "--worst", "9")
    pages = [call_well("score", own_run, *words).out.splitlines()[-1] for _ in range(2)]
    assert [Path(each).parent for each in pages] == [own_run / "scores"] * 2
    assert pages[0] != pages[1]
    assert page_of(pages[0]).sections == 4


def test_a_threshold_of_other_weights_or_settings_marks_nothing(own_run: Path) -> None:
    call_well("score", own_run, *FAST, "--false-alarms", "0.02")
    for k, more in enumerate([("--weights", "raw"), ("--replicates", "3"), ("--form", "consistency")]):
        answer = call_well("score", own_run, *FAST, "--per-image", f"{k}.csv", *more)
        assert {row["over_threshold"] for row in rows_of(f"{k}.csv")} == {""}
        assert "--false-alarms" in answer.err
        assert "threshold" not in answer.out
    call_well("score", own_run, *FAST, "--seed", "5", "--per-image", "seed.csv")
    assert {row["over_threshold"] for row in rows_of("seed.csv")} <= {"0", "1"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rank": 1}'])
def test_a_damaged_threshold_is_none(own_run: Path, text: str) -> None:
    (own_run / "scores").mkdir()
    (own_run / "scores" / "threshold.json").write_text(text)
    call_well("score", own_run, "--timesteps", "1", "--limit", "2", "--per-image", "rows.csv")
    assert {row["over_threshold"] for row in rows_of("rows.csv")} == {""}


def test_a_lost_array_of_scores_is_computed_anew(own_run: Path) -> None:
    words = ("score", own_run, "--timesteps", "1", "--limit", "4", "--false-alarms", "0.02")
    call_well(*words)
    first = kept_threshold(own_run)
    for file in (own_run / "scores").glob("*.npy"):
        file.unlink()
    call_well(*words)
    assert kept_threshold(own_run) == first


def test_a_small_folder_has_a_page_without_a_threshold(here: Path) -> None:
    """A default rate that val cannot state is no error; one that was asked for is. Names are escaped."""
    run = train_tiny(here / "run", "--data", str(write_pictures(here / "pictures")), steps=1)
    write_pictures(here / "others", 3, seed=1)
    (here / "others" / "01.png").rename(here / "others" / "<b>&.png")
    others = ("--data", "others", "--split", "all", "--timesteps", "1")
    call_well("score", run, *others, "--worst", "3", "--out", "page.html")
    page = page_of("page.html")
    assert "No threshold" in page.text
    assert page.text.count("<b>&.png") in (1, 2)
    assert not (run / "scores" / "threshold.json").exists()
    refused = call("score", run, *others, "--worst", "2", "--false-alarms", "0.01")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


def test_a_term_without_pixels_is_named_and_a_form_without_them_has_no_maps(here: Path) -> None:
    """Of a vae: the KL stands beside the map, and the importance-weighted form has no map, with the reason."""
    tiny = ("--widths", "8", "--latent", "2", "--device", "cpu", "--steps", "1")
    call_well("train", "vae", *tiny, "--out", "vae")
    call_well("score", "vae", "--limit", "3", "--worst", "1", "--out", "page.html")
    page = page_of("page.html")
    assert page.alts.count("bits of each pixel, reconstruction") == 2
    assert len(re.findall(r"Without pixels: kl -?\d+\.\d bits", page.text)) == 2
    call_well("score", "vae", "--limit", "3", "--worst", "1", "--form", "iw", "--k", "1", "--out", "iw.html")
    assert "not a sum over pixels" in page_of("iw.html").text


@pytest.mark.parametrize("option", [("--worst", "2"), ("--false-alarms", "0.1")], ids=lambda words: words[0])
def test_a_family_without_a_bound_says_so(here: Path, option: tuple[str, str]) -> None:
    tiny = ("--widths", "8", "--latent", "2", "--device", "cpu", "--steps", "1")
    call_well("train", "ae", *tiny, "--out", "ae")
    answer = call("score", "ae", *option)
    assert answer.code == 2
    assert option[0] in answer.err
    assert "no bound" in answer.err
    assert np.array_equal(sorted(Path("ae").glob("scores/*")), [])
