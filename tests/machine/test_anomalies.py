"""Profiles over t and anomaly detection: ``nelbo score --profile`` and ``--against``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import call, call_well, train_tiny
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from nelbo.diffusion.bound import ChainBound
from nelbo.diffusion.decoders import GaussianDecoder
from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.schedules import LinearBeta, Sigmoid, chain_of
from nelbo.diffusion.variances import VARIANCES
from nelbo.errors import InputError
from nelbo.jobs.profile import require_profile
from nelbo.metrics import ProfileDetector, auroc, score_likelihood, score_profile
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import in_steps
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.report.plots import profile_plot
from nelbo.report.results import Score, Term
from nelbo.rng import Draws
from nelbo.theory.exact import Coefficients, GaussianData

CPU = torch.device("cpu")


def perturbed(model: DDPM | VDM) -> DDPM | VDM:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model.eval()


def small(family: str) -> DDPM | VDM:
    torch.manual_seed(0)
    shape = (1, 3, 2)
    if family == "ddpm":
        options = DDPMOptions(timesteps=13, widths=(8,), attention=()).resolved(shape)
        return perturbed(DDPM.from_options(options, shape, 5))
    return perturbed(VDM.from_options(VDMOptions(widths=(8,), attention=(), gamma_min=-6.0).resolved(shape), shape, 5))


IMAGES = torch.tensor([0, 4, 2, 2, 1, 3], dtype=torch.uint8).reshape(1, 1, 3, 2)


# The profile


@torch.no_grad()
@pytest.mark.parametrize("family", ["ddpm", "vdm"])
@pytest.mark.parametrize("pieces", [3, 12])
def test_the_pieces_add_up_to_the_diffusion_term(family: str, pieces: int) -> None:
    """In expectation, of one image: within 3.5 combined standard errors of 3,000 draws with other seeds."""
    model, n = small(family), 3000
    x = IMAGES.expand(n, 1, 3, 2)
    found = score_profile(model, x, pieces=pieces, seed=1, batch=n)
    assert found.nats.shape == (n, pieces)
    assert len(found.edges) == pieces + 1
    total, whole = found.nats.sum(1), model.bound(x, seed=2, timesteps=12).terms["diffusion"].double()
    error = (total.var() / n + whole.var() / n) ** 0.5
    assert abs(float(total.mean() - whole.mean())) <= 3.5 * float(error)


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 5])
def test_with_every_t_it_is_the_score_of_the_same_draws(seed: int) -> None:
    """A piece for each of t = 2 … 13: the same t and the same noise as the denoising form with all of them."""
    model, x = small("ddpm"), torch.randint(0, 5, (9, 1, 3, 2), generator=torch.Generator().manual_seed(0))
    found = score_profile(model, x, pieces=12, replicates=2, seed=seed, batch=4)
    diffusion = score_likelihood(model, x, timesteps=12, replicates=2, seed=seed, batch=4).estimates("diffusion")
    assert found.edges.tolist() == list(range(1, 14))
    torch.testing.assert_close(found.nats.sum(1), diffusion.mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("T", "pieces"), [(2, 50), (3, 50), (30, 50), (51, 50), (100, 50), (1000, 50), (1000, 16)])
@torch.no_grad()
def test_the_pieces_of_steps_cover_each_step_once(T: int, pieces: int) -> None:
    """Edges rise from 1 to T, each piece no narrower than the one before; and one image of any t has K numbers."""
    options = DDPMOptions(timesteps=T, widths=(8,), attention=(), schedule="cosine").resolved((1, 3, 2))
    found = score_profile(DDPM.from_options(options, (1, 3, 2), 5), IMAGES, pieces=pieces)
    assert (found.edges[0], found.edges[-1]) == (1, T)
    assert len(found.width) == min(pieces, T - 1) == found.nats.shape[1]
    assert float(found.width.min()) >= 1
    assert found.bits()[1].tolist() == [0.0] * len(found.width)  # no spread over a single image


@torch.no_grad()
def test_gamma_stands_at_the_edges() -> None:
    """In steps the schedule's, and of a vdm in T steps that of T + 1 levels of noise; in continuous time γ(t)."""
    model = small("ddpm")
    torch.testing.assert_close(score_profile(model, IMAGES, pieces=4).gamma[-1], Sigmoid().grid(13)[-1])
    straight = small("vdm")
    torch.testing.assert_close(
        score_profile(straight, IMAGES, pieces=4).gamma, torch.tensor([-6.0, -2.5, 1.0, 4.5, 8.0]).double()
    )
    steps = score_profile(in_steps(straight, 4), IMAGES, pieces=4)
    assert steps.edges.tolist() == [1, 2, 3, 4, 5]
    torch.testing.assert_close(steps.gamma, torch.tensor([-6.0, -2.5, 1.0, 4.5, 8.0]).double())


@torch.no_grad()
def test_dropout_is_off_in_a_profile() -> None:
    options = DDPMOptions(timesteps=13, widths=(8,), attention=(), dropout=0.5).resolved((1, 3, 2))
    model = perturbed(DDPM.from_options(options, (1, 3, 2), 5))
    still = score_profile(model, IMAGES, pieces=4).nats
    assert torch.equal(score_profile(model.train(), IMAGES, pieces=4).nats, still)
    assert model.training


@torch.no_grad()
def test_every_t_by_itself_is_the_exact_term() -> None:
    """On Gaussian data with the exact denoiser, T = 30, a piece for each t: E of DDPM (12), known in closed form."""
    data, n = GaussianData(torch.zeros(2), torch.diag(torch.tensor([0.5, 2.0]))), 4000
    gammas = chain_of(LinearBeta().grid(30))

    def x_0(x_t: Tensor, gamma: Tensor) -> Tensor:
        return data.denoise(x_t.flatten(1).double(), gamma).reshape(x_t.shape)

    chain = ChainBound(denoiser_of(x_0), GaussianDecoder(5), gammas, VARIANCES["beta_tilde"], 5, (1, 1, 2))
    x = torch.tensor([[1, 4]], dtype=torch.uint8).reshape(1, 1, 1, 2).expand(n, 1, 1, 2)
    edges, nats = chain.diffusion_profile(x, Draws(0, 0, range(n), n, CPU), 29)
    assert edges.tolist() == list(range(1, 31))
    y_squared = data.coordinates(x[:1].flatten(1).double() / 2 - 1).square()
    snr = Coefficients(gammas).snr
    for t in range(2, 31):
        error = float(data.squared_error(gammas[t : t + 1], y_squared))
        exact = 0.5 * float(snr[t - 1] - snr[t]) * error  # VDM (14): ½ (SNR(s) − SNR(t)) ‖x − x̂‖²
        column = nats[:, t - 2]
        assert abs(float(column.mean()) - exact) <= 4 * float(column.std()) / n**0.5 + 1e-6


def test_the_area_of_the_plot_is_the_mean_term() -> None:
    """What is drawn: height times width over the pieces, and a band of one standard error to either side."""
    found = score_profile(small("vdm"), IMAGES.expand(7, 1, 3, 2), pieces=9)
    said = {
        "family": "vdm",
        "data": "six",
        "n": 7,
        "split": "test",
        "kind": "bound",
        "bits_per_dim": 2.0,
        "stderr": 0.1,
    }
    term = Term(nats=8.3, bits_per_dim=2.0, stderr=0.1)
    score = Score.model_construct(**said, terms={"diffusion": term})
    area, _, band = (patch.get_data() for patch in profile_plot(found, score).axes[0].patches[:3])
    bits = found.nats / (6 * np.log(2))
    assert (area.values * np.diff(area.edges)).sum() == pytest.approx(float(bits.sum(1).mean()), rel=1e-6)
    error = bits.numpy().std(0, ddof=1) / 7**0.5 * 9  # a piece is a ninth wide
    np.testing.assert_allclose(band.values - area.values, error, rtol=1e-6)
    np.testing.assert_allclose(area.values - band.baseline, error, rtol=1e-6)


@pytest.mark.parametrize("family", ["ddpm", "vdm"])
def test_an_image_has_the_same_profile_in_any_batch(family: str) -> None:
    x = torch.randint(0, 5, (9, 1, 3, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole = score_profile(small(family), x, pieces=6)
    for batch in (1, 4):
        again = score_profile(small(family), x, pieces=6, batch=batch)
        torch.testing.assert_close(again.nats, whole.nats, rtol=1e-4, atol=1e-4)


# Telling sets apart


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_counts_pairs(ties: bool) -> None:
    """By brute force over all pairs, and by scikit-learn."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 1, 60), rng.normal(0, 1, 45)
    if ties:
        a, b = a.round(), b.round()
    found = auroc(torch.from_numpy(a), torch.from_numpy(b))
    pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
    assert found.value == pytest.approx(pairs, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score([1] * 60 + [0] * 45, np.concatenate([a, b])), abs=1e-12)
    # DeLong's variance from the same table of pairs: its row and its column means.
    table = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    error = (table.mean(1).var(ddof=1) / 60 + table.mean(0).var(ddof=1) / 45) ** 0.5
    assert found.stderr == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize(("shift", "area"), [(10.0, 1.0), (-10.0, 0.0), (None, 0.5)])
def test_auroc_of_sets_apart_and_of_one_value(shift: float | None, area: float) -> None:
    """Sets that do not overlap: 1 or 0; all scores equal: a half; each without error."""
    scores = torch.zeros(20) if shift is None else torch.linspace(0, 1, 20)
    assert auroc(scores + (shift or 0.0), scores) == (area, 0.0)


def test_its_standard_error_is_the_spread_over_data_sets() -> None:
    """2,000 pairs of sets from two normal laws: DeLong's mean variance is the variance of the areas, to 10%."""
    generator = torch.Generator().manual_seed(0)
    sets = [(torch.randn(50, generator=generator) + 1, torch.randn(80, generator=generator)) for _ in range(2000)]
    found = [auroc(a, b) for a, b in sets]
    spread = float(np.var([one.value for one in found]))
    assert float(np.mean([one.stderr**2 for one in found])) == pytest.approx(spread, rel=0.1)
    # P(N(1, 1) > N(0, 1)) = Φ(1/√2)
    assert float(np.mean([one.value for one in found])) == pytest.approx(0.7602, abs=0.003)


def test_the_detector_is_the_mahalanobis_distance() -> None:
    """With a large reference shrinkage is nothing, and d² of the same law is χ² with K degrees: mean K, to 5%."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.3], [0.0, 0.5]])
    reference, same, other = (
        (torch.randn(4000, 2, generator=generator) @ mix + shift).exp() for shift in (0.0, 0.0, 3.0)
    )
    detector = ProfileDetector(reference)
    assert float(detector.distance(same).mean()) == pytest.approx(2.0, rel=0.05)
    logs = reference.log().double()
    centred = same.log().double() - logs.mean(0)
    direct = (centred @ torch.linalg.inv(torch.cov(logs.T)) * centred).sum(1)
    torch.testing.assert_close(detector.distance(same), direct, rtol=0.02, atol=0.02)
    assert auroc(detector.distance(other), detector.distance(same)).value > 0.99


# As commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("anomalies") / "run", "--timesteps", "30", steps=300)


def test_the_areas_are_those_of_the_images_own_scores(trained: Path, here: Path) -> None:
    """The total's, by brute force over the CSV files of both sets; the profile's, from the same pieces by hand."""
    noise = np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8)
    np.save("noise.npy", noise)
    other = ("--data", "noise.npy", "--levels", "17", "--split", "all", "--limit", "40")
    found = json.loads(call_well("score", trained, *other, "--against", "test", "--json").out)
    assert (found["n"], found["against"]["n"], found["against"]["split"]) == (40, 40, "test")
    call_well("score", trained, *other, "--per-image", "noise.csv")
    call_well("score", trained, "--limit", "40", "--per-image", "digits.csv")
    scores = [np.genfromtxt(name, delimiter=",", names=True)["total_nats"] for name in ("noise.csv", "digits.csv")]
    pairs = (scores[0][:, None] > scores[1]).mean()
    assert found["against"]["auroc_total"] == pytest.approx(pairs, abs=1e-9)
    assert found["against"]["bits_per_dim"] == pytest.approx(scores[1].mean() / (64 * np.log(2)), rel=1e-6)
    assert 0 <= found["against"]["auroc_profile"] <= 1
    shown = call_well("score", trained, *other, "--against", "test").out
    assert "AUROC by the profile" in shown


def test_what_is_stranger_scores_higher(trained: Path, here: Path) -> None:
    """A planted set: images at the far end of the levels against digits, which are mostly dark; both areas say so."""
    np.save("bright.npy", np.random.default_rng(0).integers(14, 17, (40, 8, 8)).astype(np.uint8))
    words = ("--data", "bright.npy", "--levels", "17", "--split", "all", "--against", "test", "--limit", "40")
    found = json.loads(call_well("score", trained, *words, "--json").out)["against"]
    assert found["auroc_total"] > 0.7  # of a model that has hardly been trained
    assert found["auroc_profile"] > 0.95


def test_the_answer_is_the_same_in_any_batch_and_has_its_fields(trained: Path, here: Path) -> None:
    np.save("noise.npy", np.random.default_rng(0).integers(0, 9, (12, 8, 8)).astype(np.uint8))
    words = ("--data", "noise.npy", "--levels", "17", "--split", "all", "--against", "val", "--limit", "12", "--json")
    one, two = (
        json.loads(call_well("score", trained, *words, "--again", "--batch-size", size).out) for size in ("5", "128")
    )
    numbers = {"auroc_total", "auroc_total_stderr", "auroc_profile", "auroc_profile_stderr"}
    assert one["against"].keys() == {"split", "n", "bits_per_dim", *numbers}
    assert (one["against"]["split"], one["against"]["n"], one["data"], one["n"]) == ("val", 12, "noise", 12)
    for name in numbers:
        assert one["against"][name] == pytest.approx(two["against"][name], abs=1e-9)


def test_other_images_are_converted_as_asked(trained: Path, here: Path) -> None:
    """Dark RGB pictures of another size, read as the run's data are, can be told from it."""
    (here / "pictures").mkdir()
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 17, (10, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "pictures" / f"{k}.png")
    words = ("--data", "pictures", "--size", "8x8", "--fit", "crop", "--channels", "1", "--levels", "17")
    found = json.loads(call_well("score", trained, *words, "--split", "all", "--against", "test", "--json").out)
    assert (found["n"], found["against"]["n"]) == (6, 359)


def test_the_profile_is_drawn_or_written(trained: Path, here: Path) -> None:
    call_well("score", trained, "--limit", "30", "--profile", "where.csv")
    rows = list(csv.DictReader(Path("where.csv").read_text().splitlines()))
    assert [float(rows[0]["t_from"]), float(rows[-1]["t_to"])] == [1, 30]
    score = json.loads(call_well("score", trained, "--limit", "30", "--timesteps", "0", "--json").out)
    total, error = sum(float(row["bits_per_dim"]) for row in rows), score["terms"]["diffusion"]["stderr"]
    assert abs(total - score["terms"]["diffusion"]["bits_per_dim"]) < 4 * error
    call_well("score", trained, "--limit", "30", "--profile", "where.png")
    assert Path("where.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--against", "test"), "--against"),
        (("--data", "noise.npy", "--levels", "17", "--against", "tets"), "--against"),
        (("--data", "digits", "--against", "test"), "--against"),
        (("--data", "digits", "--split", "train", "--against", "test"), "--against"),
        (("--data", "noise.npy", "--levels", "17", "--split", "all", "--against", "test", "--limit", "1"), "--limit"),
        (("--data", "few.npy", "--levels", "17", "--against", "test"), "--against"),
        (("--profile", "where.pdf"), "--profile"),
        (("--profile", "noise.npy"), "--profile"),
    ],
)
def test_bad_use_is_said_in_a_line(trained: Path, here: Path, words: tuple[str, ...], option: str) -> None:
    grey = np.arange(9, dtype=np.uint8)[:, None, None] + np.zeros((1, 8, 8), np.uint8)
    np.save("noise.npy", grey)
    np.save("few.npy", grey[:3, None])
    answer = call("score", trained, *words)
    assert (answer.code, answer.out) == (2, "")
    assert option in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_bound_without_t_has_no_profile(tmp_path: Path) -> None:
    """That of a chain of one step, which is its decoder's, and that of a vae."""
    one = DDPM.from_options(
        DDPMOptions(timesteps=1, widths=(8,), attention=(), schedule="cosine").resolved((1, 3, 2)), (1, 3, 2), 5
    )
    vae = VAE.from_options(VAEOptions().resolved((1, 4, 4)), (1, 4, 4), 5)
    for model in (one, vae):
        with pytest.raises(InputError, match=r"profile.*has no t"):
            require_profile(model, tmp_path / "where.png")


def test_the_score_of_the_likelihood_is_untouched() -> None:
    """A profile draws from its own stream positions: scoring before and after gives the same numbers."""
    model, x = small("ddpm"), IMAGES.expand(5, 1, 3, 2)
    before = score_likelihood(model, x).estimates()
    score_profile(model, x)
    assert torch.equal(score_likelihood(model, x).estimates(), before)
