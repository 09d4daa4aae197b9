"""Labels on the command line and in Python: training, resuming, samples by name, scores, and errors."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import Toy, call, call_well, require_refusal, same_tensors, tensors_of, train_tiny
from PIL import Image
from torch import Tensor, nn

import nelbo
from nelbo.config.trained import weight_settings
from nelbo.data import load
from nelbo.errors import InputError
from nelbo.jobs._digest import digests
from nelbo.jobs.features import open_features
from nelbo.metrics import score_likelihood
from nelbo.models.sampling import Frame, SampleSettings
from nelbo.models.vdm import VDMOptions
from nelbo.options import TrainingOptions
from nelbo.report.pictures import grid
from nelbo.rng import Draws
from nelbo.training import Trainer
from nelbo.training.batches import Batches
from nelbo.training.feed import Feed
from nelbo.training.folders import all_checkpoints, step_of

CPU = torch.device("cpu")
DIGITS = tuple("0123456789")
SHORT = ["--widths", "8", "--batch-size", "8", "--device", "cpu", "--precision", "fp32"]
FAMILIES = {"ddpm": ["--timesteps", "30"], "vdm": [], "diffusion": ["--timesteps", "20"]}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of p(x|y) on digits."""
    return train_tiny(tmp_path_factory.mktemp("labels") / "run", "--labels", "--label-dropout", "0.2", steps=20)


def images_file(path: Path, labels: Sequence[str] | None, n: int = 60) -> Path:
    """Images of two shades, with labels if there are any."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (n, 8, 8), dtype=np.uint8)
    named = {} if labels is None else {"labels": np.array([labels[k % len(labels)] for k in range(n)])}
    np.savez(path, images=x, levels=np.int64(17), **named)
    return path


def require_classes_and_resumption(*line: str) -> None:
    """A run of the digits, as ``whole``, records its classes, and is the same to the bit if it is resumed."""
    call_well(*line, "--steps", "6", "--out", "whole")
    call_well(*line, "--steps", "3", "--out", "parts")
    call_well(*line, "--steps", "6", "--out", "parts", "--resume")
    for part in ("model", "ema"):
        same_tensors(tensors_of(Path("whole"), part), tensors_of(Path("parts"), part))
    model = tomllib.loads(Path("whole/config.toml").read_text())["model"]
    assert (model["labels"], model["label_dropout"], tuple(model["classes"])) == (True, 0.1, DIGITS)
    assert json.loads(call_well("info", "whole", "--json").out)["labels"] == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_records_its_classes_and_resumes_to_the_bit(family: str, here: Path) -> None:
    line = ["train", family, *SHORT, *FAMILIES[family], "--labels", "--decay", "0"]
    require_classes_and_resumption(*line)
    weights = tensors_of(Path("whole"))
    assert weights["network.labels"].shape[0] == 11
    assert int((weights["network.labels"] != 0).any(1).sum()) > 5  # those of the classes in six batches
    shares = weights["clusters.shares_by_label"]
    torch.testing.assert_close(shares.sum(1), torch.ones(11, dtype=torch.float64))


def test_the_shares_of_a_class_are_those_of_its_training_images(labelled: Path) -> None:
    """P(c|y), by counting the run's own images in the nearest clusters of their class; no two classes share one."""
    model, dataset = nelbo.load(labelled), nelbo.Run(labelled).dataset
    assert isinstance(model, nelbo.Diffusion)
    assert model.clusters is not None
    x, y = dataset.split("train"), dataset.split_labels("train")
    assert y is not None
    shares = model.clusters.shares_by_label[1:]
    cluster = model.clusters(x.float() / 8 - 1, y + 1)
    for label in range(10):
        counts = torch.bincount(cluster[y == label], minlength=shares.shape[1]).double()
        torch.testing.assert_close(shares[label], counts / counts.sum(), rtol=1e-9, atol=1e-12)
    assert int((shares > 0).sum(0).max()) == 1


LATENT = {"vae": ["--latent", "4"], "hvae": ["--latent", "2", "--depth", "2"]}


@pytest.mark.parametrize("family", LATENT)
def test_a_family_with_latents_learns_labels(family: str, here: Path) -> None:
    """Trained, resumed to the bit, scored given the labels, sampled by name, and edited."""
    line = ["train", family, *SHORT, *LATENT[family], "--labels", "--decay", "0"]
    require_classes_and_resumption(*line)
    vectors = {name: value for name, value in tensors_of(Path("whole")).items() if name.endswith("labels")}
    assert len(vectors) == 2
    assert all(value.shape[0] == 11 and int((value != 0).any(1).sum()) > 5 for value in vectors.values())
    score = json.loads(call_well("score", "whole", "--limit", "20", "--json").out)
    assert score["given_labels"]["bits_per_dim"] != score["bits_per_dim"]
    said = call_well("sample", "whole", "-n", "4", "--label", "7,3", "--out", "a.npz").err
    assert "given labels 7, 3" in " ".join(said.split())
    with np.load("a.npz") as file:
        assert file["labels"].tolist() == ["7", "3", "7", "3"]
        expected = nelbo.load("whole").sample(4, label=("7", "3"))
        assert np.array_equal(file["images"], expected.permute(0, 2, 3, 1).numpy())
    image, hole = nelbo.Run("whole").dataset.split("test")[0], np.eye(8, dtype=bool)
    edited = nelbo.edit("whole", "inpaint", image, mask=hole, n=2, steps=3, label="7")
    assert "given label 7" in edited.how
    assert torch.equal(edited.images[:, 0][:, ~hole], image[0][~hole].expand(2, -1))
    answer = call("sample", "whole", "--label", "7", "--guidance", "2", "--out", "b.npz")
    assert answer.code == 2
    assert "--guidance" in answer.err


def test_a_gan_learns_labels(here: Path) -> None:
    line = ["train", "gan", *SHORT, "--latent", "4", "--clusters", "5", "--labels", "--decay", "0"]
    call_well(*line, "--steps", "5", "--out", "whole")
    call_well(*line, "--steps", "3", "--out", "parts")
    call_well(*line, "--steps", "5", "--out", "parts", "--resume")
    same_tensors(tensors_of(Path("whole")), tensors_of(Path("parts")))
    weights = tensors_of(Path("whole"))
    for name in ("generator.labels", "critic.labels.weight"):
        assert weights[name].shape[0] == 11
        assert int((weights[name] != 0).any(1).sum()) > 5
    shares = weights["clusters.shares_by_label"]
    torch.testing.assert_close(shares.sum(1), torch.ones(11, dtype=torch.float64))
    assert json.loads(call_well("info", "whole", "--json").out)["labels"] == 10
    assert json.loads(call_well("score", "whole", "--limit", "5", "--json").out)["kind"] == "none"
    said = call_well("sample", "whole", "-n", "4", "--label", "7,3", "--out", "a.npz").err
    assert "given labels 7, 3" in " ".join(said.split())
    with np.load("a.npz") as file:
        assert file["labels"].tolist() == ["7", "3", "7", "3"]
        expected = nelbo.load("whole").sample(4, label=("7", "3"))
        assert np.array_equal(file["images"], expected.permute(0, 2, 3, 1).numpy())


class Reader(Toy):
    """Records the labels beside the images of every part of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[Tensor] = []

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        assert draws.labels is not None
        self.labels.append(draws.labels)
        return super().loss(x, draws)

    def frames(self, indices: Sequence[int], seed: int, settings: SampleSettings) -> Iterator[Frame]:
        return super().frames(indices, seed, settings)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_image_of_a_batch_comes_with_its_own_label(accumulate: int, tmp_path: Path) -> None:
    """Over several epochs, with batches that end in the middle of one, in parts or not."""
    n = 10
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 1, 3).contiguous()
    labels = 100 + torch.arange(n)
    recipe = TrainingOptions(steps=7, batch_size=6, accumulate=accumulate, device="cpu", precision="fp32")
    model = Reader()
    for _ in Trainer(model, images, recipe, tmp_path, labels=labels):
        pass
    assert len(model.seen) == len(model.labels) == 7 * accumulate
    for x, y in zip(model.seen, model.labels, strict=True):
        assert torch.equal(y, 100 + x[:, 0, 0, 0].long())
    assert set(torch.cat(model.labels).tolist()) == set(labels.tolist())


def test_a_process_has_the_labels_of_its_own_places() -> None:
    images, labels = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1), 1 + torch.arange(9)
    batches = Batches(images, 4, seed=0, labels=labels)
    for step in range(5):
        found = Feed(batches, [1, 3], CPU).take(step)
        assert found.labels is not None
        assert torch.equal(found.labels, 1 + found.images.flatten().long())
        assert torch.equal(found.labels, 1 + batches.gather(step, range(4)).flatten().long()[[1, 3]])
    assert Feed(Batches(images, 4, seed=0), [1, 3], CPU).take(0).labels is None


def test_classes_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match="classes"):
        VDMOptions(labels=True).resolved((1, 8, 8))
    with pytest.raises(InputError, match="labels"):
        VDMOptions(classes=("a", "b")).resolved((1, 8, 8))


def test_samples_of_names(labelled: Path, here: Path) -> None:
    """In the order of the names, image i of the class i mod their number, as from Python; the npz has the names."""
    call_well("sample", labelled, "-n", "5", "--label", "7,3", "--steps", "4", "--out", "a.npz")
    with np.load("a.npz") as file:
        assert file["labels"].tolist() == ["7", "3", "7", "3", "7"]
        images = file["images"]
    expected = nelbo.load(labelled).sample(5, label=("7", "3"), steps=4)
    assert np.array_equal(images, expected.permute(0, 2, 3, 1).numpy())
    alone = nelbo.Run(labelled).sample(5, label="3", steps=4)
    assert torch.equal(alone[1::2], expected[1::2])
    assert not torch.equal(alone[0::2], expected[0::2])
    assert load("a.npz").classes == ("3", "7")


def test_all_is_a_row_for_each_class(labelled: Path, here: Path) -> None:
    """Of 23 images of 10 classes the first three have three; other places are white."""
    said = call_well("sample", labelled, "-n", "23", "--label", "all", "--steps", "4", "--out", "a.png").err
    assert f"given labels {', '.join(DIGITS)}" in said
    x = nelbo.load(labelled).sample(23, label="all", steps=4)
    white = torch.full((1, 1, 8, 8), 16, dtype=torch.uint8)
    rows = [torch.cat([x[k::10], white][: 1 + (k >= 3)]) for k in range(10)]
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(grid(torch.cat(rows), 17, 3)))
    call_well("sample", labelled, "-n", "10", "--label", "all", "--steps", "4", "--real", "--out", "b.png")
    call_well("sample", labelled, "-n", "10", "--label", "all", "--steps", "4", "--out", "c.gif")


def test_guided_samples_are_said_to_have_no_scored_law(labelled: Path, here: Path) -> None:
    line = ["sample", labelled, "-n", "4", "--label", "3", "--steps", "4"]
    plain = call_well(*line, "--guidance", "1", "--out", "a.npz").err
    said = call_well(*line, "--guidance", "10000", "--guidance-interval=-8,5.5", "--out", "b.npz").err
    assert "guidance 10000 for γ from -8 to 5.5: these samples are from no law that is scored" in " ".join(said.split())
    assert "no law" not in plain
    assert "guidance 2: these samples are from no law" in " ".join(call_well(*line, "--out", "c.npz").err.split())
    expected = nelbo.load(labelled).sample(4, label="3", steps=4, guidance=1e4, guidance_interval=(-8.0, 5.5))
    with np.load("a.npz") as one, np.load("b.npz") as two:
        assert not np.array_equal(one["images"], two["images"])
        assert np.array_equal(two["images"], expected.permute(0, 2, 3, 1).numpy())


def test_an_earlier_checkpoint_guides(labelled: Path, here: Path) -> None:
    step = step_of(all_checkpoints(labelled)[0])
    line = ("sample", labelled, "-n", "4", "--label", "3", "--steps", "4", "--autoguidance", str(step))
    assert "guidance 3 away from a weaker model" in " ".join(
        call_well(*line, "--guidance", "3", "--out", "a.npz").err.split()
    )
    weaker = nelbo.load(labelled, step=step)
    expected = nelbo.load(labelled).sample(4, label="3", steps=4, guidance=3.0, weaker=weaker)
    with np.load("a.npz") as drawn:
        assert np.array_equal(drawn["images"], expected.permute(0, 2, 3, 1).numpy())
    words = ["--autoguidance", f"no checkpoint of step 999 (its steps: {step}"]
    require_refusal("sample RUN -n 4 --label 3 --autoguidance 999 --out b.npz", {"RUN": labelled}, words, here)


def test_samples_of_labels_are_evaluated(labelled: Path, here: Path) -> None:
    """Beside images of these classes, and by how many are read as the class asked for: by hand from the samples."""
    call_well("features", "--data", "digits", "--epochs", "1", "--out", "features", "--device", "cpu")
    line = ["evaluate", labelled, "--samples", "40", "--label", "3,7", "--steps", "3", "--features", "features"]
    found = json.loads(call_well(*line, "--device", "cpu", "--json").out)
    dataset = nelbo.Run(labelled).dataset
    labels = dataset.split_labels("test")
    assert labels is not None
    assert found["n"] == int(((labels == 3) | (labels == 7)).sum())
    drawn = nelbo.load(labelled).sample(40, label="3,7", steps=3)
    space = open_features(here / "features", dataset, "cpu")
    read = space.classify(drawn).argmax(1)
    assert found["modes"]["as_asked"] == float((read == torch.tensor([3, 7] * 20)).double().mean())
    assert found["modes"]["counts"] == torch.bincount(read, minlength=10).tolist()
    assert "label" in found["sampling_settings"]


EDITS = {
    "inpaint": ("--mask", "mask.png", "-n", "2"),
    "upscale": ("--factor", "2", "-n", "2"),
    "vary": ("--strength", "0.9", "-n", "2"),
    "invert": ("--source-label", "7"),
    "interpolate": ("--frames", "2"),
}


@pytest.mark.parametrize("verb", EDITS)
def test_every_edit_takes_a_label(verb: str, labelled: Path, here: Path) -> None:
    """As from Python; the run is hardly trained, so that its labels make differences below a level."""
    digits = nelbo.Run(labelled).dataset.split("test")[:2]
    files = ["a.png", "b.png"][: 1 + (verb == "interpolate")]
    for image, name in zip(digits[:, 0].numpy(), ("a.png", "b.png"), strict=True):
        small = image[::2, ::2] if verb == "upscale" else image
        Image.fromarray((small * 15.9375).astype(np.uint8)).save(name)
    Image.fromarray(np.tile(np.array([0, 255], np.uint8).repeat(4), (8, 1))).save("mask.png")
    line = ["edit", labelled, verb, *files, *EDITS[verb], "--label", "3", "--steps", "4", "--out", "x.npz"]
    assert "given label 3" in " ".join(call_well(*line).err.split())
    with np.load("x.npz") as file:
        assert file["images"].shape == (1 if verb == "invert" else 2, 8, 8, 1)


WRONG = {
    "edit RUN vary a.png --label 11": ("--label", "did you mean '1'"),
    "edit RUN vary a.png --label 3 --source-label 7": ("--source-label", "invert"),
    "edit RUN invert a.png --source-label 7": ("--source-label", "--label"),
    "edit PLAIN vary a.png --label 3": ("--label", "without labels"),
    "sample RUN --label 11": ("--label", "did you mean '1'"),
    "sample RUN --label 3,x": ("--label", "'x'"),
    "sample RUN -n 4 --label all": ("-n", "less than the number of classes, 10"),
    "sample RUN --label 3 --guidance -1": ("--guidance",),
    "sample RUN --label 3 --guidance 2 --guidance-interval 1": ("--guidance-interval",),
    "sample RUN --label 3 --guidance 2 --guidance-interval a,b": ("--guidance-interval", "LOW,HIGH"),
    "sample RUN --label 3 --guidance 2 --guidance-interval 2,1": ("--guidance-interval", "LOW < HIGH"),
    "sample PLAIN --label 3": ("--label", "without labels"),
    "train ddpm --data bare.npz --labels": ("--labels", "bare"),
    "train ddpm --label-dropout 0.3": ("--label-dropout", "--labels"),
    "train ddpm --labels --label-dropout 0": ("--label-dropout",),
    "train ae --labels": ("--labels", "ddpm, diffusion, gan, hvae, vae, vdm; leave it out"),
    "train vae --label-dropout 0.3": ("--label-dropout", "--labels"),
    "train vae --data bare.npz --labels": ("--labels", "bare"),
    "train ddpm --resume --out RUN --no-labels": ("--labels", "True"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_done_is_one_line(line: str, labelled: Path, digits_run: Path, here: Path) -> None:
    images_file(here / "bare.npz", None)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    require_refusal(line, {"RUN": labelled, "PLAIN": digits_run}, WRONG[line], here)


def test_a_score_has_the_bound_given_the_labels(labelled: Path) -> None:
    """And what they save, with the errors of the paired estimates, by hand."""
    found = json.loads(call_well("score", labelled, "--limit", "50", "--json").out)
    given = found["given_labels"]
    run = nelbo.Run(labelled)
    model, dataset = run.model(), run.dataset
    assert isinstance(model, nelbo.Diffusion)
    x, y = dataset.split("test")[:50], dataset.split_labels("test")
    assert y is not None
    with_y = score_likelihood(model, x, labels=y[:50] + 1).estimates().numpy()
    without = score_likelihood(model, x).estimates().numpy()
    scale = 1 / (64 * math.log(2))
    assert found["bits_per_dim"] == pytest.approx(scale * without.mean(), rel=1e-5)
    assert given["bits_per_dim"] == pytest.approx(scale * with_y.mean(), rel=1e-5)
    saved = scale * (without - with_y)
    assert given["saved"] == pytest.approx(saved.mean(), rel=1e-3)
    assert given["saved_bits"] == pytest.approx(64 * given["saved"], rel=1e-9)
    assert given["stderr"] == pytest.approx(saved.mean(1).std(ddof=1) / math.sqrt(50), rel=1e-2)
    assert given["stderr"] < 0.5 * found["stderr"]
    assert sum(term["nats"] for term in given["terms"].values()) == pytest.approx(with_y.mean(), rel=1e-5)
    assert given["saved"] > 3 * given["stderr"]  # the clusters of a class are fewer
    shown = call_well("score", labelled, "--limit", "50").out
    assert "given the labels" in shown
    assert "saved by the label, paired" in shown


def test_a_score_of_other_labels_is_another_score(labelled: Path, here: Path) -> None:
    """Of the same images; without labels, or with other classes, a warning takes the place of the bound of p(x|y)."""

    def scored(labels: Sequence[str] | None) -> dict:
        path = images_file(here / "x.npz", labels)
        return json.loads(call_well("score", labelled, "--data", path, "--split", "all", "--json").out)

    one, two, none, other = scored(("3", "4")), scored(("4", "3")), scored(None), scored(("3", "x"))
    assert one["bits_per_dim"] == two["bits_per_dim"] == none["bits_per_dim"]
    assert one["labels_sha256"] != two["labels_sha256"]
    assert one["given_labels"]["bits_per_dim"] != two["given_labels"]["bits_per_dim"]
    for without in (none, other):
        assert "given_labels" not in without
        assert any("no bound of p(x|y)" in line for line in without["warnings"])
    assert not any("p(x|y)" in line for line in one["warnings"])


@pytest.mark.parametrize("family", ["ddpm", "vae"])
def test_a_run_without_labels_keeps_its_digest(family: str, digits_run: Path, here: Path) -> None:
    """As before there were labels: the settings without any trace of them."""
    path = digits_run
    if family == "vae":
        path = here / "vae"
        call_well("train", "vae", *SHORT, *LATENT["vae"], "--steps", "2", "--out", path)
    settings = weight_settings(nelbo.Run(path).config)
    settings["model"] = {k: v for k, v in settings["model"].items() if k not in ("labels", "label_dropout", "classes")}
    wanted = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert digests(nelbo.Run(path), "ema")["model_sha256"] == wanted


def test_a_run_of_labels_has_another_digest_for_other_classes(labelled: Path) -> None:
    run = nelbo.Run(labelled)
    found = digests(run, "ema")["model_sha256"]
    model = run.config.model.model_copy(update={"classes": DIGITS[::-1]})
    run.config = run.config.model_copy(update={"model": model})
    assert digests(run, "ema")["model_sha256"] != found


class Into(nn.Module):
    """An encoder of one's own, with a shift for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift = nn.Linear(64, 4), nn.Embedding(3, 4)

    def forward(self, x_0: Tensor, *, label: Tensor | None = None) -> Tensor:
        found: Tensor = self.layer(x_0.flatten(1)) + self.shift(
            torch.zeros(1, dtype=torch.long) if label is None else label
        )
        return found


class Back(nn.Module):
    """A decoder of one's own, of a normal law, with a shift for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift = nn.Linear(2, 128), nn.Embedding(3, 128)

    def forward(self, z: Tensor, *, label: Tensor | None = None) -> Tensor:
        found = self.layer(z) + self.shift(torch.zeros(1, dtype=torch.long) if label is None else label)
        return found.reshape(-1, 2, 8, 8)


class Net(nn.Module):
    """A network of one's own, with a shift for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(3, 1)

    def forward(self, z: Tensor, gamma: Tensor, *, label: Tensor | None = None) -> Tensor:
        label = torch.zeros(len(z), dtype=torch.int64, device=z.device) if label is None else label
        found: Tensor = self.layer(z) + self.shift(label)[:, :, None, None]
        return found


def test_a_vae_is_fitted_with_labels_and_networks_of_ones_own(here: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 17, (60, 1, 8, 8), dtype=np.uint8), np.array(["dog", "cat"])[rng.integers(0, 2, 60)]
    parts = {"encoder": Into(), "decoder": Back()}
    model = nelbo.VAE(**parts, shape=(1, 8, 8), levels=17, latent=2, likelihood="normal", classes=("dog", "cat"))
    run = nelbo.fit(model, x, labels=y, steps=3, out="mine", device="cpu")
    assert run.score(limit=5, split="train").given_labels is not None
    again = nelbo.Run("mine", encoder=Into(), decoder=Back())
    assert again.sample(3, label="cat").shape == (3, 1, 8, 8)


@pytest.mark.parametrize("named", [True, False])
def test_fit_takes_labels(named: bool, here: Path) -> None:
    """Names, or indices into the classes; the run keeps the names with its images."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 17, (100, 1, 8, 8), dtype=np.uint8), rng.integers(0, 2, 100)
    model = nelbo.Diffusion(Net(), (1, 8, 8), 17, classes=("dog", "cat"), label_dropout=0.2)
    labels = np.array(["dog", "cat"])[y] if named else y
    run = nelbo.fit(model, x, labels=labels, steps=5, out="mine", device="cpu")
    assert set(np.load("mine/images.npz")["y_train"].tolist()) == {"cat", "dog"}
    images, kept = run.dataset.split("train"), run.dataset.split_labels("train")
    assert kept is not None
    for image, label in zip(images[:20], kept[:20], strict=True):
        (row,) = (x == image.numpy()).all((1, 2, 3)).nonzero()
        assert run.dataset.classes[int(label)] == ("dog", "cat")[y[row[0]]]
    again = nelbo.Run("mine", network=Net())
    score = again.score(limit=5, split="train")
    assert score.given_labels is not None
    assert again.sample(3, label="cat", steps=3).shape == (3, 1, 8, 8)
    nelbo.fit(model, x, labels=labels, steps=6, out="mine", resume=True)


def test_fit_refuses_labels_that_do_not_fit(here: Path) -> None:
    x, y = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 3
    x += np.arange(40, dtype=np.uint8).reshape(-1, 1, 1, 1) % 17
    for labels in (None, y, np.array(["dog", "cow"] * 20)):
        model = nelbo.Diffusion(Net(), (1, 8, 8), 17, classes=("dog", "cat"))
        with pytest.raises(InputError, match="labels"):
            nelbo.fit(model, x, labels=labels, steps=2, out="mine")
    assert not Path("mine").exists()


def test_a_family_that_cannot_learn_labels_says_so_from_python(here: Path) -> None:
    with pytest.raises(InputError, match=r"does not learn p\(x\|y\)") as error:
        nelbo.train("ae", "digits", labels=True, steps=2)
    assert error.value.where == "labels"


def test_a_distilled_run_of_labels_draws_them(labelled: Path, here: Path) -> None:
    call_well("distill", labelled, "--out", "student", "--teacher-steps", "8", "--steps", "2", "--train-steps", "2")
    assert "guidance = 2.0" in Path("student/config.toml").read_text()
    call_well("sample", "student", "-n", "2", "--out", "a.npz")
    said = call_well("sample", "student", "-n", "2", "--label", "3", "--out", "b.npz").err
    assert "distilled, 2 steps, x̂_0 clipped to [−1, 1], given label 3, guidance 2" in said
    call_well("sample", "student", "-n", "10", "--label", "all", "--out", "c.npz")
    assert not np.array_equal(np.load("a.npz")["images"], np.load("b.npz")["images"])
    assert np.load("c.npz")["labels"].tolist() == list("0123456789")
    for words, fix in (
        (("--label", "seven"), "not one of the classes"),
        (("--guidance", "3"), "distilled with guidance 2"),
    ):
        answer = call("sample", "student", "-n", "2", *words)
        assert answer.code == 2
        assert words[0] in answer.err
        assert fix in answer.err


def test_a_distillation_without_guidance(labelled: Path, here: Path) -> None:
    words = ("--out", "student", "--teacher-steps", "8", "--steps", "2", "--train-steps", "2", "--guidance", "1")
    call_well("distill", labelled, *words)
    assert "guidance 2" not in call_well("sample", "student", "-n", "2", "--label", "3").err
    for option, value in (("--guidance", "3"), ("--teacher-steps", "16")):
        again = (
            "distill",
            labelled,
            "--out",
            "student",
            "--steps",
            "2",
            "--train-steps",
            "4",
            "--resume",
            option,
            value,
        )
        answer = call(*again)
        assert answer.code == 2
        assert f"{option}: student is distilled with" in answer.err
