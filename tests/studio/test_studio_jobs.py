"""The jobs behind the screens, against truths found another way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import nelbo
from nelbo.data import load
from nelbo.diffusion.process import diffuse, posterior
from nelbo.errors import InputError
from nelbo.files import LOCKS, lock_holder, sole
from nelbo.jobs.browse import class_counts, copies_over_splits, data_below, page_of, refused_files
from nelbo.jobs.denoise import require_diffusion, spent_bits, way_from, way_of
from nelbo.jobs.drawn import counted
from nelbo.jobs.edit_images import reduced
from nelbo.jobs.progress import found_runs, progress_of
from nelbo.jobs.walk import walk
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.options import DataOptions, SampleOptions
from nelbo.theory.likelihoods import to_levels, to_unit
from nelbo.theory.normal import kl_normal
from nelbo.units import bits_per_dim
from nelbo.watching import watched


@pytest.fixture(scope="module")
def chain(folders: Path) -> Diffusion:
    """A ddpm of 12 steps with the network of the run, so that every step of its bound can be summed."""
    torch.manual_seed(0)
    run = nelbo.train("ddpm", out=folders / "chains/twelve", steps=30, widths=(8, 8), timesteps=12, clusters=0,
                      device="cpu", precision="fp32")  # fmt: skip
    return require_diffusion(run)


@torch.no_grad()
def test_bits_are_the_divergences_of_the_steps_so_far(chain: Diffusion) -> None:
    """By KL(q(z_s|z_t, x) ‖ p(z_s|z_t)) in closed form, averaged over the noise of 400 other draws, within 5 errors."""
    image = load("digits").split("test")[3]
    spent, scored, draws = spent_bits(chain, image, seed=1), bound_of(chain), 400
    gammas, x = chain.timeline.chain(), to_unit(image[None], 17).expand(draws, -1, -1, -1).double()
    noise = torch.Generator().manual_seed(0)
    means, errors = [], []
    for t in range(12, 1, -1):
        low, high = gammas[t - 1].expand(draws), gammas[t].expand(draws)
        z = diffuse(x, high, torch.randn(x.shape, generator=noise, dtype=torch.float64))
        q, p = posterior(x, z, low, high), scored.reverse(z, low, high)
        cost = bits_per_dim(1.0, 64) * kl_normal(q.mean, q.var, p.mean, p.var).flatten(1).sum(1)
        means.append(float(cost.mean()))
        errors.append(float(cost.std()) / draws**0.5)
    prior = float(spent.bits[0])
    expected = prior + np.cumsum(means)
    sigma = np.hypot(np.sqrt(np.cumsum(np.square(errors))), spent.stderr[1:].numpy())
    assert np.abs(spent.bits[1:].numpy() - expected).max() <= 5 * sigma.max()
    alpha = float(torch.sigmoid(-gammas[-1]))
    exact = 0.5 * ((1 - alpha) - 1 - np.log(1 - alpha) + alpha * x[0].square().numpy()).sum()
    assert prior == pytest.approx(bits_per_dim(exact, 64), rel=1e-6)
    assert spent.at(1.0)[0] == prior
    assert spent.at(0.0)[0] == float(spent.bits[-1])


def test_bits_and_the_last_step_make_the_bound(chain: Diffusion) -> None:
    image = load("digits").split("test")[3]
    spent = spent_bits(chain, image, seed=1)
    found = chain.bound(image[None].expand(200, -1, -1, -1), seed=9)
    each = found.total * bits_per_dim(1.0, 64)
    error = np.hypot(spent.total[1], float(each.std()) / 200**0.5)
    assert abs(spent.total[0] - float(each.mean())) <= 5 * error


def test_an_image_is_noised_with_one_noise_at_every_t(chain: Diffusion) -> None:
    image = load("digits").split("test")[0]
    way, alphas = way_of(chain, image, seed=4), torch.sigmoid(-chain.timeline.chain()[1:])
    for t in (1 / 12, 0.5, 1.0):
        alpha = float(alphas[round(12 * t) - 1])
        z = np.sqrt(alpha) * (image.numpy() / 8.0 - 1) + np.sqrt(1 - alpha) * way.eps[0].numpy()
        shown = way.at(t).z.numpy().astype(int)
        assert np.abs(shown - np.clip(np.round((z + 1) * 8), 0, 16)).max() <= 1  # float32 at the edge of two levels
    with pytest.raises(InputError, match="not between"):
        way.at(1.5)


def test_the_way_of_a_seed_ends_in_its_sample(chain: Diffusion) -> None:
    way = way_from(chain, seed=3, steps=6)
    assert torch.equal(way.image, chain.sample(1, seed=3, sampler="ddim", eta=0.0, steps=6)[0])
    assert [way.drawn_at(t).t for t in (1.0, 0.5, 0.01)] == pytest.approx([1.0, 0.5, 1 / 6])


def test_a_walk_begins_and_ends_with_samples_of_its_seeds(folders: Path) -> None:
    vae = nelbo.Run(folders / "runs/digits-vae")
    images = walk(vae, (2, 5), 5)
    assert torch.equal(images[0], vae.sample(1, seed=2)[0])
    assert torch.equal(images[-1], vae.sample(1, seed=5)[0])
    assert len({image.numpy().tobytes() for image in images}) == 5


@pytest.mark.parametrize(("name", "told"), [("chains/twelve", {}), ("runs/digits-ddpm", {"guidance": 1.0})])
def test_a_walk_of_a_chain_begins_and_ends_with_samples(
    folders: Path, chain: Diffusion, name: str, told: dict[str, float]
) -> None:
    """By Heun's method, without clusters and with those that the seeds draw."""
    run = nelbo.Run(folders / name)
    model = require_diffusion(run)
    assert (model.clusters is None) == (not told)
    ends = walk(run, (2, 5), 3, steps=4)[[0, -1]]
    for image, seed in zip(ends, (2, 5), strict=True):
        drawn = model.sample(1, seed=seed, sampler="heun", steps=7, clip=False, **told)[0]
        assert (image.int() - drawn.int()).abs().max() <= 1


def test_evaluations_are_counted(folders: Path) -> None:
    from nelbo.jobs.sample import drawn

    run = nelbo.Run(folders / "runs/digits-ddpm")
    model = run.model()
    with counted(model) as seen:
        model.network(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(3))
    assert seen() == 3
    plain = drawn(run, 2, SampleOptions(sampler="ancestral", steps=5, guidance=1.0))
    assert plain.evaluations == 5
    assert drawn(run, 2, SampleOptions(sampler="ancestral", steps=5, label="3", guidance=3.0)).evaluations == 10


def test_a_reduced_image_has_the_means_of_its_blocks() -> None:
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8) % 17
    means = image.double().reshape(1, 4, 2, 4, 2).mean((2, 4))
    assert (reduced(image, 17, 2).double() - means).abs().max() <= 0.5
    with pytest.raises(InputError, match="divisor"):
        reduced(image, 17, 3)


def test_a_page_has_the_images_of_a_class_in_order() -> None:
    digits = load("digits")
    labels = digits.split_labels("test")
    assert labels is not None
    found = page_of(digits, "test", "4", 2, 3)
    assert torch.equal(found.images, digits.split("test")[labels == 4][2:5])
    assert found.total == int((labels == 4).sum())
    assert all(name.endswith("class 4") for name in found.names)
    assert [sum(each) for each in zip(*class_counts(digits).values(), strict=True)] == [1259, 179, 359]
    with pytest.raises(InputError, match="not a class"):
        page_of(digits, "test", "eleven", 0, 3)


def test_copies_over_splits_are_found(folders: Path) -> None:
    data = load(str(folders / "copied"))
    groups = copies_over_splits(data)
    assert len(groups) == 1
    names = {str(data.origin(split, row)[0]) for split, row in groups[0]}
    assert {Path(name).name for name in names} == {"03.png", "copy.png"}
    assert copies_over_splits(load("digits")) == []


def test_unreadable_files_are_listed_with_the_reason(folders: Path) -> None:
    (found,) = refused_files(DataOptions(data=str(folders / "photos")))
    assert found.name == "0/broken.png"
    assert "corrupt" in found.why or "not an image" in found.why
    assert refused_files(DataOptions(data="digits")) == []


def test_runs_and_data_are_found(folders: Path) -> None:
    assert {path.name for path in found_runs([folders / "runs"])} == {"digits-ddpm", "digits-vae"}
    assert found_runs([folders / "runs/digits-vae"]) == [folders / "runs/digits-vae"]
    assert found_runs([folders / "nowhere"]) == []
    assert {path.name for path in data_below([folders])} == {"photos", "copied"}


def test_progress_is_that_of_the_log(folders: Path, tmp_path: Path) -> None:
    found = progress_of(folders / "runs/digits-vae")
    assert (found.family, found.data, found.share, found.pid) == ("vae", "digits", 1.0, None)
    assert found.step == found.steps == found.loss[-1][0]
    with pytest.raises(InputError, match="vanished"):
        progress_of(tmp_path / "gone")


@pytest.mark.skipif(not LOCKS.exists(), reason="the system does not list locks")
def test_the_holder_of_a_lock_is_known(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with sole(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) is None


def test_a_watcher_sees_progress_and_can_end_the_task(folders: Path) -> None:
    run, seen = nelbo.Run(folders / "runs/digits-ddpm"), list[float]()

    def watch(task: str, share: float | None) -> None:
        seen.append(share or 0.0)
        if len(seen) > 3:
            raise KeyError(task)

    from nelbo.jobs.sample import drawn

    with watched(watch), pytest.raises(KeyError, match="sampling"):
        drawn(run, 2, SampleOptions(steps=8))
    assert seen == sorted(seen)
    assert to_levels(torch.tensor([-1.0, 1.0]), 17).tolist() == [0, 16]
