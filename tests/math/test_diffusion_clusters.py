"""A diffusion model of clusters: its bound cluster by cluster, its samples' law, and what its network sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from math_helpers import assert_bound_needs_its_cluster, one_step_evidence
from scipy import stats
from torch import Tensor, nn

from nelbo.diffusion.known import Known
from nelbo.diffusion.process import rates
from nelbo.diffusion.schedules import BetaTable
from nelbo.errors import InputError
from nelbo.metrics.profile import score_profile
from nelbo.metrics.step_costs import score_steps
from nelbo.models._diffusion_clusters import HIDDEN
from nelbo.models._distilled import DistillationOptions, Distilled
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.diffusion import Diffusion, in_steps
from nelbo.models.sampling import SampleSettings
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.nn.unet import UNet
from nelbo.rng import Draws
from nelbo.theory.likelihoods import to_unit

CPU = torch.device("cpu")
SHAPE, LEVELS, SPREAD = (1, 2, 2), 17, 0.2
MEANS, SHARES = (-0.6, 0.1, 0.7), (0.2, 0.5, 0.3)


class Normals(nn.Module):
    """E[x|z] of x ~ N(m, SPREAD² I) with the mean m that comes with z, or else its own, and the m that it was given."""

    def __init__(self, mean: float = 0.0) -> None:
        super().__init__()
        self.mean, self.scale = mean, nn.Parameter(torch.ones(()))
        self.seen: list[Tensor | None] = []

    def forward(self, z: Tensor, gamma: Tensor, hint: Tensor | None = None) -> Tensor:
        self.seen.append(hint)
        mean = torch.full_like(z, self.mean) if hint is None else hint
        signal, noise = rates(gamma.double(), z)
        gain = SPREAD**2 * signal / (SPREAD**2 * signal.square() + noise.square())
        return self.scale * (mean + gain * (z - signal * mean))


class Decoded(Normals):
    """The same, and a learned ln σ of a decoder."""

    def forward(self, z: Tensor, gamma: Tensor, hint: Tensor | None = None) -> Tensor:
        return torch.cat([super().forward(z, gamma, hint), torch.zeros_like(z)], 1)


def model_of(clusters: int, network: nn.Module | None = None, **settings: Any) -> Diffusion:
    """A model of p(x|m), with three clusters of these means and shares if it has any."""
    model = Diffusion(
        network or Normals(), SHAPE, LEVELS, **{"predict": "x0", "timesteps": 8} | settings, clusters=clusters
    )
    if model.clusters is not None:
        model.clusters.centres[:3] = torch.tensor(MEANS)[:, None]
        model.clusters.shares.copy_(torch.tensor([*SHARES, *[0.0] * (clusters - 3)]))
    return model.eval()


def images(n: int = 24) -> Tensor:
    """Images of all clusters."""
    rng = np.random.default_rng(0)
    x_0 = rng.choice(MEANS, (n, 1, 1, 1)) + SPREAD * rng.standard_normal((n, *SHAPE))
    return torch.from_numpy(((x_0.clip(-1, 1) + 1) * 8).round().astype(np.uint8))


def cluster_of(x: Tensor) -> np.ndarray:
    """The nearest mean of each image, by numpy."""
    mean = x.double().numpy().reshape(len(x), -1) / 8 - 1
    return np.square(mean[:, None] - np.array(MEANS)[None, :, None]).sum(2).argmin(1)


@pytest.mark.parametrize("form", ["denoising", "consistency", "trajectory", "iw", "entropy", "ode"])
def test_the_bound_is_that_of_its_cluster_and_the_clusters_cost(form: str) -> None:
    """For each cluster, a model that knows only this cluster, with the same noise; to float32's round-off.

    The solver of ode chooses its steps for the whole batch, so that its own error, 0.01 nats, differs.
    """
    x, mixed = images(), model_of(5)
    error = 0.01 if form == "ode" else 1e-4
    found, cluster = mixed.bound(x, form=form, k=2), cluster_of(x)
    assert set(cluster) == {0, 1, 2}
    for c, (mean, share) in enumerate(zip(MEANS, SHARES, strict=True)):
        rows = torch.from_numpy(cluster == c)
        alone = model_of(0, Normals(mean)).bound(x, form=form, k=2)
        assert form == "ode" or found.evaluations == alone.evaluations
        for name, nats in alone.terms.items():
            torch.testing.assert_close(found.terms[name][rows], nats[rows], rtol=1e-5, atol=error)
        assert set(found.terms) == {*alone.terms, "cluster"}
        np.testing.assert_allclose(found.terms["cluster"][rows].numpy(), -math.log(share), rtol=1e-6)


def test_in_continuous_time_and_in_other_steps_too() -> None:
    x = images()
    rows = torch.from_numpy(cluster_of(x) == 1)
    for change in (lambda model: model, lambda model: in_steps(model, 3)):
        mixed, alone = (change(model_of(k, net, timesteps=None)) for k, net in ((3, None), (0, Normals(MEANS[1]))))
        found, wanted = mixed.bound(x), alone.bound(x)
        expected = wanted.total - math.log(SHARES[1])
        torch.testing.assert_close(found.total[rows], expected[rows], rtol=1e-5, atol=1e-4)


def test_the_bound_holds() -> None:
    """E[bound] ≥ −ln Σ_c P(c) p(x|c), with p(x|c) of a chain of one step, β_1 = 0.9, by quadrature over z_1.

    For every level; and a wrong P(c), such as 1, breaks it.
    """
    model = Diffusion(
        Normals(), (1, 1, 1), LEVELS, predict="x0", schedule=BetaTable((0.9,)), timesteps=1, clusters=3
    ).eval()
    assert model.clusters is not None
    model.clusters.centres.copy_(torch.tensor(MEANS)[:, None])
    model.clusters.shares.copy_(torch.tensor(SHARES))
    x = torch.arange(LEVELS, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    found = model.bound(x, replicates=400)
    parts = [(share, lambda z, m=mean: Known(torch.full_like(z, m))) for mean, share in zip(MEANS, SHARES, strict=True)]
    assert_bound_needs_its_cluster(found, one_step_evidence(model, parts))


def test_samples_follow_the_mixture() -> None:
    """By ancestral sampling in many steps: Σ_c P(c) N(m_c, SPREAD²) for each pixel, before rounding, by KS; c by χ²."""
    model = model_of(4, timesteps=200, schedule="cosine")
    with torch.no_grad():
        *_, last = model.frames(range(3000), 3, SampleSettings(sampler="ancestral", clip=False, guidance=1.0))
    value = last.x.double().numpy().reshape(3000, -1)
    nearest = np.square(value[:, None] - np.array(MEANS)[None, :, None]).sum(2).argmin(1)
    counts = np.bincount(nearest, minlength=3)
    assert stats.chisquare(counts, 3000 * np.array(SHARES)).pvalue > 0.01
    for c, mean in enumerate(MEANS):
        inside = value[nearest == c][:, 0]
        assert stats.kstest(inside, stats.norm(mean, SPREAD).cdf).pvalue > 0.001


def test_an_image_of_a_seed_does_not_depend_on_the_others() -> None:
    model = model_of(3)
    together, alone = model.sample(7, seed=5), model.sample(2, seed=5, start=4, batch=1)
    assert torch.equal(together[4:6], alone)


@pytest.mark.parametrize(("T", "objective"), [(8, "bound"), (8, "simple"), (None, "bound")])
def test_training_shows_the_network_the_images_own_cluster(T: int | None, objective: str) -> None:
    """All but a tenth come with m of their own cluster, the others with zeros; rows for the decoder as their images."""
    network = Decoded()
    model = model_of(3, network, timesteps=T, objective=objective, decoder="learned_gaussian").train()
    x, hidden, n = images(64), 0, 0
    means = torch.tensor(MEANS)[torch.from_numpy(cluster_of(x))]
    for step in range(40):
        network.seen.clear()
        model.loss(x, Draws(0, step, range(64), 64, CPU))
        (hint,) = network.seen
        assert hint is not None
        assert len(hint) == (64 if T else 64 + 2)  # in continuous time one in 32 also at t = 0
        of = torch.cat([torch.arange(64), torch.arange(0, 64, 32)])[: len(hint)]
        zero = (hint == 0).flatten(1).all(1)
        assert torch.equal(hint[~zero], means[of][~zero].reshape(-1, 1, 1, 1).expand(-1, *SHAPE))
        assert torch.equal(zero[64:], zero[:64][of[64:]])
        hidden, n = hidden + int(zero[:64].sum()), n + 64
    assert abs(hidden - HIDDEN * n) < 4 * math.sqrt(n * HIDDEN * (1 - HIDDEN))


def test_a_student_and_its_teacher_see_the_same_cluster() -> None:
    model = Distilled(model_of(3, Normals(), predict="x0"), DistillationOptions(teacher="t", steps=2, teacher_steps=4))
    x = images(16)
    model.loss(x, Draws(0, 0, range(16), 16, CPU))
    means = torch.tensor(MEANS)[torch.from_numpy(cluster_of(x))].reshape(-1, 1, 1, 1).expand(-1, *SHAPE)
    for network in (model.student.network, model.teacher.network):
        assert network.seen
        assert all(torch.equal(hint, means) for hint in network.seen)
    assert len(torch.unique(model.sample(64).flatten(1).float().mean(1).round())) > 2


def test_the_profile_and_the_costs_of_steps_are_the_clusters() -> None:
    x, mixed = images(), model_of(3)
    cluster = cluster_of(x)
    profile = score_profile(mixed, x, pieces=7).nats
    for c, mean in enumerate(MEANS):
        alone, rows = model_of(0, Normals(mean)), torch.from_numpy(cluster == c)
        torch.testing.assert_close(profile[rows], score_profile(alone, x, pieces=7).nats[rows], rtol=1e-5, atol=1e-4)
        only = x[rows][:1].expand(4, -1, -1, -1)
        for ours, theirs in zip(score_steps(mixed, only), score_steps(alone, only), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_the_u_net_takes_no_picture_as_zeros() -> None:
    torch.manual_seed(0)
    network = UNet(1, 1, widths=(8, 8), blocks=1, attention=(), dropout=0.0, picture_channels=1)
    torch.nn.init.normal_(network.head[-1].weight)
    z, time = torch.randn(3, 1, 6, 5), torch.rand(3)
    without, zeros = network(z, time), network(z, time, None, torch.zeros(3, 1, 6, 5))
    assert torch.equal(without, zeros)
    assert not torch.allclose(without, network(z, time, None, torch.ones(3, 1, 6, 5)))


@pytest.mark.parametrize(("options", "kind"), [(DDPMOptions, DDPM), (VDMOptions, VDM)])
def test_clusters_are_the_default_of_new_runs_only(options: Any, kind: Any) -> None:
    """A run of revision 1 has none; a new one has up to 1,000, and learns them from its images."""
    assert options(revision=1).resolved((1, 8, 8)).clusters == 0
    assert options(revision=1, clusters=7).resolved((1, 8, 8)).clusters == 7
    assert options(clusters=0).resolved((1, 8, 8)).clusters == 0
    chosen = options(widths=(8,)).resolved((1, 8, 8))
    assert chosen.clusters == 1000
    model = kind.from_options(chosen, (1, 8, 8), 17)
    x = torch.randint(0, 17, (100, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert "cluster" not in model.bound(x).terms  # before it has learned them, there is one
    model.recipe.prepare(x, 17, seed=0)
    found = model.bound(x)
    assert float(found.terms["cluster"].mean()) == pytest.approx(
        float(-(model.clusters.shares[model.clusters(to_unit(x, 17))]).log().mean()), rel=1e-9
    )
    assert model.inspector.facts()["clusters"] == int((model.clusters.shares > 0).sum()) <= 5


def test_diffusers_networks_see_none() -> None:
    from nelbo.nn.unet2d import UNet2DOptions

    theirs = UNet2DOptions(sample_size=8, in_channels=1, out_channels=3)
    assert DDPMOptions(unet2d=theirs).resolved((1, 8, 8)).clusters == 0
    with pytest.raises(InputError, match="clusters"):
        DDPM.from_options(DDPMOptions(unet2d=theirs, clusters=3).resolved((1, 8, 8)), (1, 8, 8), 17)
