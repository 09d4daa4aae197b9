"""``nelbo classify`` on the command line and in Python: its result, its table, its file, and errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from machine_helpers import call_well, require_refusal, train_tiny

import nelbo

DIGITS = tuple("0123456789")
SHORT = ("--limit", "12", "--evaluations", "2")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of p(x|y) on digits. Only to be read, but for its scores."""
    return train_tiny(tmp_path_factory.mktemp("classify") / "run", "--labels", steps=12)


def images_file(path: Path, labels: Sequence[str] | None, n: int = 8) -> Path:
    """Images of the size of digits, with labels if there are any."""
    images = np.random.default_rng(0).integers(0, 17, (n, 8, 8), dtype=np.uint8)
    named = {} if labels is None else {"labels": np.array([labels[k % len(labels)] for k in range(n)])}
    np.savez(path, images=images, levels=np.int64(17), **named)
    return path


def test_a_classification_is_what_json_has(labelled: Path, here: Path) -> None:
    """And what the file has, image by image; the second time it is read from RUN/scores."""
    found = nelbo.Run(labelled).classify(limit=12, evaluations=2, per_image=here / "a.csv")
    assert isinstance(found, nelbo.Classification)
    assert found == nelbo.classify(labelled, limit=12, evaluations=2)
    assert json.loads(call_well("classify", labelled, *SHORT, "--json").out) == found.as_dict()
    assert (found.n, found.kind, tuple(found.classes)) == (12, "labels", DIGITS)
    rows = list(csv.DictReader((here / "a.csv").open(encoding="utf-8")))
    assert [row["image"] for row in rows] == [str(k) for k in range(12)]
    right = [row["label"] == row["predicted"] for row in rows]
    undecided = [row["undecided"] == "1" for row in rows]
    assert found.right is not None
    assert found.right.value == pytest.approx(np.mean(right))
    assert found.undecided == pytest.approx(np.mean(undecided))
    assert found.evaluations_per_image == pytest.approx(np.mean([int(row["evaluations"]) for row in rows]))
    assert 0 < found.evaluations_per_image <= 20
    table = np.zeros((10, 11), dtype=int)
    for row in rows:
        column = 10 if row["undecided"] == "1" else DIGITS.index(row["predicted"])
        table[DIGITS.index(row["label"]), column] += 1
        assert row["predicted"] != row["runner_up"]
        assert (float(row["behind_nats"]) <= 2 * float(row["stderr_nats"])) == (row["undecided"] == "1")
    assert found.confusion == table.tolist()
    assert found.calibration is not None
    stated = [float(row["probability"]) for row in rows]
    assert sum(each.n * each.stated for each in found.calibration) == pytest.approx(sum(stated), abs=1e-4)
    assert sum(each.n * each.right for each in found.calibration) == pytest.approx(sum(right))


def test_the_prior_is_that_of_the_training_images(labelled: Path) -> None:
    dataset = nelbo.Run(labelled).dataset
    labels = dataset.split_labels("train")
    assert labels is not None
    shares = np.bincount(labels.numpy(), minlength=10) / len(labels)
    assert nelbo.classify(labelled, limit=12, evaluations=2).prior == pytest.approx(shares.tolist())


def test_the_tables_are_printed(labelled: Path) -> None:
    shown = call_well("classify", labelled, *SHORT).out
    for words in ("12 images of 10 classes", "undecided", "class \\ label", "stated P(y|x)", "calibration error"):
        assert words in shown
    assert shown.rstrip() == str(nelbo.classify(labelled, limit=12, evaluations=2))


def test_another_seed_is_other_noise_and_another_limit_is_the_same(labelled: Path, here: Path) -> None:
    def rows(name: str, *words: str) -> list[list[str]]:
        call_well("classify", labelled, "--evaluations", "2", "--per-image", name, *words)
        return list(csv.reader(Path(name).open(encoding="utf-8")))

    first = rows("a.csv", "--limit", "6", "--batch-size", "4096")
    assert len(first) == 7
    assert rows("b.csv", "--limit", "6", "--batch-size", "4096") == first
    assert rows("c.csv", "--limit", "6", "--seed", "1") != first
    more = rows("d.csv", "--limit", "9", "--batch-size", "7")
    for one, two in zip(first[1:], more[1:7], strict=True):
        assert one[:5] == two[:5]
        np.testing.assert_allclose([float(v) for v in one[7:9]], [float(v) for v in two[7:9]], rtol=1e-3, atol=1e-3)


def test_bfloat16_changes_the_costs_by_its_rounding(labelled: Path, here: Path) -> None:
    """By at most a tenth of a standard error, where the same two labels are compared; and it does change them."""
    rows = {}
    for precision, matrices in (("fp32", "float32"), ("bf16", "bfloat16")):
        call_well("classify", labelled, *SHORT, "--precision", precision, "--per-image", f"{precision}.csv")
        rows[precision] = list(csv.DictReader((here / f"{precision}.csv").open(encoding="utf-8")))
        assert nelbo.classify(labelled, limit=12, evaluations=2, precision=precision).matrices == matrices
    alike = [
        (float(a["behind_nats"]), float(b["behind_nats"]), float(a["stderr_nats"]))
        for a, b in zip(*rows.values(), strict=True)
        if (a["predicted"], a["runner_up"]) == (b["predicted"], b["runner_up"])
    ]
    assert len(alike) > 6
    assert any(one != two for one, two, _ in alike)
    assert all(abs(one - two) < 0.1 * stderr for one, two, stderr in alike)


@pytest.mark.parametrize("labels", [None, ("3", "x")])
def test_images_without_the_runs_labels_are_classified_too(
    labels: tuple[str, ...] | None, labelled: Path, here: Path
) -> None:
    path = images_file(here / "x.npz", labels)
    found = json.loads(call_well("classify", labelled, "--data", path, "--split", "all", *SHORT[2:], "--json").out)
    assert found["n"] == 8
    assert not {"right", "confusion", "calibration", "log_loss"} & found.keys()
    assert any("nothing to compare with" in line for line in found["warnings"])
    known = images_file(here / "y.npz", ("3", "4"))
    labelled_too = nelbo.classify(labelled, data=known, split="all", evaluations=2)
    assert labelled_too.undecided == found["undecided"]
    assert labelled_too.confusion is not None
    assert sum(map(sum, labelled_too.confusion)) == 8


WRONG = {
    "classify PLAIN": ("without labels", "--labels"),
    "classify AE": ("this ae has no bound of p(x|y)", "--labels"),
    "classify RUN --evaluations 0": ("--evaluations",),
    "classify RUN --limit 0": ("--limit",),
    "classify RUN --split tset": ("--split", "test"),
    "classify RUN --per-image there.csv": ("--per-image", "already exists"),
    "classify RUN --k 3": ("--k", "'nelbo score'"),
    "score RUN --evaluations 3": ("--evaluations", "'nelbo classify'"),
    "classify nowhere": ("nowhere",),
}


@pytest.fixture(scope="module")
def ae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ae") / "run"
    return nelbo.train("ae", "digits", steps=2, widths=(8, 8), device="cpu", out=out).path


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_done_is_one_line(line: str, labelled: Path, digits_run: Path, ae_run: Path, here: Path) -> None:
    (here / "there.csv").touch()
    require_refusal(line, {"RUN": labelled, "PLAIN": digits_run, "AE": ae_run}, WRONG[line], here)
