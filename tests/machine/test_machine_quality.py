"""``nelbo features`` and ``nelbo evaluate``: samples compared with images."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well
from PIL import Image

import nelbo
from nelbo.data import load
from nelbo.jobs import features
from nelbo.jobs.features import learning_seconds, moved, open_features
from nelbo.jobs.run import Run
from nelbo.metrics.distances import frechet_distance
from nelbo.metrics.inception import to_rgb
from nelbo.metrics.quality import in_batches
from nelbo.models._gan_inspector import GANInspector
from nelbo.models.gan import GAN
from nelbo.theory.likelihoods import to_unit

DEVICE = ("--device", "cpu")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "digits"
    call_well("features", "--data", "digits", "--epochs", "12", "--out", folder, *DEVICE)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "gan"
    call_well("train", "gan", "--steps", "5", "--widths", "8", "8", "--out", path, *DEVICE)
    return path


def test_features_are_learnt_and_hashed(learnt: Path) -> None:
    about = json.loads((learnt / "features.json").read_text())
    assert about["accuracy"]["test"] > 0.95  # a support vector machine on pixels has 0.99
    space = open_features(learnt, load("digits"), "cpu")
    assert space.sha256 == about["sha256"]
    p = space.classify(load("digits").split("test"))
    torch.testing.assert_close(p.sum(1), torch.ones(len(p)))
    labels = load("digits").split_labels("test")
    assert float((p.argmax(1) == labels).double().mean()) == pytest.approx(about["accuracy"]["test"])


def test_features_in_the_cache_are_found_again(here: Path) -> None:
    """By the same settings; with --again, or with other ones, they are trained anew."""
    folder, about = nelbo.features("digits", epochs=1, device="cpu")
    file = folder / "features.safetensors"
    made = file.stat().st_mtime_ns
    assert nelbo.features("digits", epochs=1, device="cpu") == (folder, about)
    assert file.stat().st_mtime_ns == made
    for change in ({"epochs": 1, "again": True}, {"epochs": 2}):
        nelbo.features("digits", device="cpu", **change)
        assert file.stat().st_mtime_ns > made
        made = file.stat().st_mtime_ns
    file.write_bytes(b"")
    assert nelbo.features("digits", epochs=1, device="cpu")[1]["sha256"] == about["sha256"]


def test_samples_are_measured_beside_images(run: Path, learnt: Path, here: Path) -> None:
    asked = ("evaluate", run, "--samples", "40", "--features", learnt, *DEVICE)
    found = json.loads(call_well(*asked, "--json").out)
    assert (found["kind"], found["bits_per_dim"], found["samples"], found["n"]) == ("samples", None, 40, 359)
    assert found["features_sha256"] == json.loads((learnt / "features.json").read_text())["sha256"]
    assert set(found["quality"]) == {
        "FD-digits",
        "KD-digits",
        "precision",
        "recall",
        "density",
        "coverage",
        "memorisation",
    }
    assert sum(found["modes"]["counts"]) == 40
    # The same from the samples themselves; 'sample' says what is known of them.
    said = call_well("sample", run, "-n", "40", "--out", here / "drawn.npz", *DEVICE).err
    share = found["modes"]["readable"] / found["modes"]["readable_images"]
    words = f"have FD-digits {found['quality']['FD-digits']['value']:.3g} and are {share:.3f} as readable as images"
    assert f"40 samples ({found['sampling']}) {words}" in " ".join(said.split())
    assert "bits/dim" not in said  # a gan has none
    drawn = torch.from_numpy(np.load(here / "drawn.npz")["images"]).movedim(-1, 1)
    space, test = open_features(learnt, load("digits"), "cpu"), load("digits").split("test")
    expected = frechet_distance(in_batches(space.embed, drawn), in_batches(space.embed, test)).value
    assert found["quality"]["FD-digits"]["value"] == pytest.approx(expected, rel=1e-6)
    # Kept, and not measured again; a table for people.
    assert json.loads(call_well(*asked, "--json").out) == found
    assert "FD-digits" in call_well(*asked).out
    call_well(*asked, "--neighbours", here / "near.png")
    assert Image.open(here / "near.png").width > 100


def test_an_aes_codes_will_do_where_there_are_no_labels(run: Path, here: Path) -> None:
    call_well("train", "ae", "--steps", "5", "--latent", "6", "--widths", "8", "8", "--out", here / "ae", *DEVICE)
    found = json.loads(call_well("evaluate", run, "--samples", "30", "--features", here / "ae", "--json", *DEVICE).out)
    assert "FD-ae-digits" in found["quality"]
    assert "modes" not in found


def test_inceptions_features_where_they_are_at_hand(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch-fidelity, whose features are mean colours: what it is handed, and what is made of it."""
    answer = call("evaluate", run, "--samples", "30", "--features", "inception")
    assert answer.code == 2
    assert "torch-fidelity" in answer.err
    seen = []

    class Extractor(torch.nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"])
            assert Path(feature_extractor_weights_path).read_bytes() == b"weights"

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(x)
            return (torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(here))
    answer = call("evaluate", run, "--samples", "30", "--features", "inception")
    assert answer.code == 2
    assert "weights" in answer.err
    (here / "checkpoints").mkdir()
    (here / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"weights")
    found = json.loads(call_well("evaluate", run, "--samples", "30", "--features", "inception", "--json", *DEVICE).out)
    assert {"FID", "KID"} < set(found["quality"])
    assert found["features_sha256"] == hashlib.sha256(b"weights").hexdigest()
    images = load("digits").split("test")
    assert any(len(x) == len(images) and torch.equal(x, to_rgb(images, 17)) for x in seen)
    assert all(x.dtype == torch.uint8 and x.shape[1:] == (3, 8, 8) for x in seen)


def test_what_cannot_be_measured_is_said(run: Path, learnt: Path, here: Path) -> None:
    np.save(here / "plain.npy", np.random.default_rng(0).integers(0, 17, (60, 8, 8)).astype(np.uint8))
    for words, said in (
        (("evaluate", run, "--samples", "5", "--features", learnt), "--samples"),
        (("evaluate", run, "--samples", "50", "--features", here / "none"), "nelbo features"),
        (("evaluate", run, "--samples", "50", "--features", run), "--features"),
        (("score", run, "--features", learnt), "'nelbo evaluate'"),
        (("score", run, "--samples", "50"), "'nelbo evaluate'"),
        (("evaluate", run, "--limit", "3"), "'nelbo score'"),
        (("evaluate", run, "--replicates", "3"), "'nelbo score'"),
        (("features", "--data", here / "plain.npy", "--levels", "17"), "has no labels"),
        (("features", "--out", learnt), "--out"),
    ):
        answer = call(*words)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert len(answer.err.strip().splitlines()) == 1
    weights = learnt.parent / "damaged"
    weights.mkdir()
    (weights / "features.json").write_bytes((learnt / "features.json").read_bytes())
    (weights / "features.safetensors").write_bytes((learnt / "features.safetensors").read_bytes()[:-1] + b"x")
    answer = call("evaluate", run, "--samples", "50", "--features", weights)
    assert answer.code == 2
    assert "damaged" in answer.err
    about = json.loads((weights / "features.json").read_text())
    for data, classes in ((b"not safetensors", 10), ((learnt / "features.safetensors").read_bytes(), 11)):
        (weights / "features.safetensors").write_bytes(data)
        found = about | {"sha256": hashlib.sha256(data).hexdigest(), "classes": ["c"] * classes}
        (weights / "features.json").write_text(json.dumps(found))
        answer = call("evaluate", run, "--samples", "50", "--features", weights)
        assert (answer.code, len(answer.err.strip().splitlines())) == (2, 1)
        assert "does not contain the network" in answer.err


class FewImages(GAN):
    """A generator that draws nothing but these images, with a hundredth of noise."""

    images: torch.Tensor

    def draw(self, z: torch.Tensor, cluster: torch.Tensor | None = None) -> torch.Tensor:
        row = (1000 * z[:, 0].abs()).long() % len(self.images)
        return (self.images[row] + 0.01 * z[:, 1].reshape(-1, 1, 1, 1)).clamp(-1, 1)


@pytest.mark.parametrize(("kept", "said"), [("one image", "samples vary 0.0"), ("one class", "0.0"), ("all", None)])
def test_collapse_is_judged_by_pixels_and_by_classes(
    run: Path, learnt: Path, here: Path, monkeypatch: pytest.MonkeyPatch, kept: str, said: str | None
) -> None:
    """Threes alone differ as pixels do; all images of training are no collapse. Nothing is said after 5 steps."""
    data = load("digits")
    labels = data.split_labels("train")
    assert labels is not None
    images = to_unit(data.split("train"), 17)
    rows = {"one image": images[:1], "one class": images[labels == 3], "all": images}[kept]
    monkeypatch.setattr(FewImages, "images", rows, raising=False)
    monkeypatch.setattr(importlib.import_module("nelbo.models.gan"), "MODEL", FewImages)
    asked = ("evaluate", run, "--samples", "200", "--features", learnt, "--json", "--again", *DEVICE)
    assert json.loads(call_well(*asked).out)["warnings"] == []
    monkeypatch.setattr(Run, "step", 400)
    found = json.loads(call_well(*asked).out)
    own = json.loads(call_well("score", run, "--again", "--json", *DEVICE).out)["warnings"]
    if said is None:
        assert found["warnings"] == []
        assert not [line for line in own if "collapse" in line]
        return
    (line,) = found["warnings"]
    assert line.startswith("mode collapse: ")
    assert said in line
    assert ("classes" in line) == (kept == "one class")
    assert bool(own) == (kept == "one image"), "without a classifier, pixels are all there is to judge by"
    assert line in call_well(*(word for word in asked if word not in ("--json", "--again"))).out


def test_a_bound_below_nothing_proves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        GANInspector,
        "measures",
        lambda self, images, start=0: {"jensen_shannon_at_least": torch.full((len(images),), -0.334)},
    )
    found = json.loads(call_well("score", run, "--again", "--json", *DEVICE).out)["measures"]
    proved = found["jensen_shannon_at_least"]
    assert (proved["value"], proved["estimate"]) == (0.0, pytest.approx(-0.334))
    assert "0 (no evidence)" in call_well("score", run, *DEVICE).out
    said = call_well("train", "gan", "--steps", "2", "--widths", "8", "8", "--out", "new", *DEVICE).err
    assert "jensen shannon at least 0.000 (no evidence)" in said
    assert "-0.334" not in said
    assert "collapse" not in said


def said_command(message: str) -> list[str]:
    """The words of the command that a message names, without ``nelbo``."""
    found = re.search(
        r"(nelbo (?:train|features) .*?) \((?:it stops after 5 minutes|about \d+ (?:s|minutes) on this machine)",
        message,
    )
    assert found, message
    return shlex.split(found[1])[1:]


def test_without_labels_the_command_that_is_named_works(here: Path) -> None:
    """What 'evaluate' and 'features' name is run as it stands, but for its 5 minutes, and then measured in."""
    np.save(here / "my plain.npy", np.random.default_rng(0).integers(0, 17, (240, 9, 12)).astype(np.uint8))
    reading = ("--data", "my plain.npy", "--levels", "17", "--size", "8x8", "--fit", "crop")
    call_well("train", "vae", *reading, "--steps", "2", "--widths", "8", "8", "--out", "r", *DEVICE)
    for asked in (("evaluate", "r", "--samples", "24"), ("features", *reading)):
        answer = call(*asked)
        assert (answer.code, len(answer.err.splitlines())) == (2, 1)
        assert "nelbo features" not in answer.err, "one command, not one that names another"
        words = said_command(answer.err)
        assert words[words.index("--minutes") + 1] == "5"
        words[words.index("--minutes") + 1] = "0.02"
        run = call_well(*words, *DEVICE).out.strip()
        assert f"--features '{run}'" in answer.err
        found = json.loads(call_well("evaluate", "r", "--samples", "24", "--features", run, "--json", *DEVICE).out)
        assert "FD-ae-my plain" in found["quality"]


def test_with_labels_the_command_that_is_named_works(here: Path) -> None:
    """It reads the data as the run does, or else the features are of other images."""
    random = np.random.default_rng(0)
    for k in range(240):
        (here / "in" / f"class {k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 12), dtype=np.uint8)).save(
            here / "in" / f"class {k % 2}" / f"{k}.png"
        )
    reading = ("--data", "in", "--size", "8x8", "--fit", "crop")
    call_well("train", "vae", *reading, "--steps", "2", "--widths", "8", "8", "--out", "r", *DEVICE)
    for more in ((), ("--features", "learnt here")):
        answer = call("evaluate", "r", "--samples", "24", *more, *DEVICE)
        assert (answer.code, len(answer.err.splitlines())) == (2, 1)
        call_well(*said_command(answer.err), *DEVICE)
        found = json.loads(call_well("evaluate", "r", "--samples", "24", *more, "--json", *DEVICE).out)
        assert "FD-in" in found["quality"]


def test_the_time_that_is_named_is_that_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for half a second a step, and three for the first."""
    now = [0.0]

    def fit(*_: object) -> Iterator[None]:
        now[0] += 0.5 if now[0] else 3.0
        yield

    monkeypatch.setattr(features, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(features, "fit", fit)
    assert learning_seconds(load("digits"), "cpu") == pytest.approx(0.5 * 8 * (1259 // 64))


def test_images_are_moved_whole() -> None:
    """Every image of the batch is one of the 25 crops of itself, padded by its edge."""
    torch.manual_seed(0)
    x = torch.randn(7, 2, 16, 18)
    found = moved(x)
    assert found.shape == x.shape
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for image, wide in zip(found, padded, strict=True):
        crops = [wide[:, i : i + 16, j : j + 18] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, crop) for crop in crops)
    assert not torch.equal(found, x)
