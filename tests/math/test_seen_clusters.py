"""Clusters given what is seen of an image: Bayes' rule by SciPy, what must not matter, and what the network is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nelbo.diffusion.process import diffuse
from nelbo.editing.clusters import cluster_law, dimensions, effective_number, noised_cluster_law
from nelbo.editing.constraints import BlockMeans, Mask, Matrix, Seen
from nelbo.editing.particles import METHODS
from nelbo.jobs.edit_diffusion import DiffusionEditor
from nelbo.jobs.edit_task import Task
from nelbo.models.diffusion import Diffusion
from nelbo.nn.clusters import Clusters, drawn_by
from nelbo.theory.likelihoods import to_levels

SIDE, K = 4, 8
HALF = (torch.arange(SIDE) < SIDE // 2).expand(1, SIDE, SIDE)
"""The left half is seen: 8 pixels."""


def clusters_of(centres: Tensor, shares: Tensor, classes: int = 0) -> Clusters:
    """Clusters with these means, shape (K, 1, H, W)."""
    made = Clusters((1, *centres.shape[2:]), len(centres), classes)
    made.centres.copy_(centres.flatten(1))
    made.shares.copy_(shares / shares.sum())
    return made


def alike(seen: Tensor) -> Tensor:
    """Means in pairs that differ in one seen pixel each: S is a multiple of the identity; shape (2 ν, 1, H, W)."""
    places = seen.flatten().nonzero()[:, 0]
    bases = torch.randn(len(places), SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    others = bases.clone()
    others[torch.arange(len(places)), places] += 0.1
    return torch.cat([bases, others]).view(-1, 1, SIDE, SIDE)


def random_clusters() -> Clusters:
    draws = torch.Generator().manual_seed(1)
    return clusters_of(torch.randn(K, 1, SIDE, SIDE, generator=draws) / 2, torch.rand(K, generator=draws))


def some_images(n: int = 5) -> Tensor:
    return torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) / 2


def test_the_law_is_bayes_rule_for_normal_clusters() -> None:
    """With 8 seen pixels that vary alike, and the variance of the nearest cluster's residual; by SciPy, to float32."""
    centres = alike(HALF)
    clusters = clusters_of(centres, torch.arange(1.0, 17.0))
    x = some_images()
    found = cluster_law(clusters, Seen.of(Mask(HALF), Mask(HALF).measure(x)))
    for row, image in zip(found, x, strict=True):
        seen, means = image[HALF].double().numpy(), centres[:, HALF].double().numpy()
        var = np.square(seen - means).sum(1).min() / 8
        log = [stats.multivariate_normal(mean, var * np.eye(8)).logpdf(seen) for mean in means]
        expected = np.exp(log - np.max(log)) * clusters.shares.numpy()
        np.testing.assert_allclose(row.numpy(), expected / expected.sum(), rtol=1e-4)


@pytest.mark.parametrize("gamma", [-3.0, 0.0, 4.0])
def test_the_law_given_noise_is_bayes_rule_too(gamma: float) -> None:
    """z ~ N(√ᾱ m_c, 1 − ᾱ + ᾱ s²), with 16 pixels that vary alike and s² of the nearest cluster; by SciPy."""
    vectors = alike(torch.ones(SIDE, SIDE))
    clusters, x = clusters_of(vectors, torch.arange(1.0, 33.0)), some_images()
    gammas = torch.full((5,), gamma, dtype=torch.float64)
    z = diffuse(x, gammas, torch.randn(x.shape, generator=torch.Generator().manual_seed(3)))
    signal = 1 / (1 + np.exp(gamma))
    for row, image, noised in zip(noised_cluster_law(clusters, x, z, gammas), x, z, strict=True):
        plain, means = image.flatten().double().numpy(), vectors.flatten(1).double().numpy()
        var = 1 - signal + signal * np.square(plain - means).sum(1).min() / 16
        log = [stats.norm(signal**0.5 * mean, var**0.5).logpdf(noised.flatten().numpy()).sum() for mean in means]
        expected = np.exp(log - np.max(log)) * clusters.shares.numpy()
        np.testing.assert_allclose(row.numpy(), expected / expected.sum(), rtol=1e-3)


def test_noise_hides_nothing_at_first_and_all_at_last() -> None:
    """At γ = −30 the law is that of an image that is seen whole, at γ = 30 that of none; clusters in any place."""
    clusters, x = random_clusters(), some_images()
    whole = cluster_law(clusters, Seen(Matrix(torch.eye(SIDE * SIDE), (1, SIDE, SIDE)), x))
    for gamma, expected in ((-30.0, whole), (30.0, clusters.shares.expand(5, -1))):
        gammas = torch.full((5,), gamma, dtype=torch.float64)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
        found = noised_cluster_law(clusters, x, diffuse(x, gammas, noise), gammas)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_what_is_hidden_does_not_matter() -> None:
    clusters, x = random_clusters(), some_images()
    seen = Seen.of(Mask(HALF), Mask(HALF).measure(x))
    found = cluster_law(clusters, seen)
    clusters.centres.view(K, 1, SIDE, SIDE)[:, ~HALF] += 3.0
    torch.testing.assert_close(cluster_law(clusters, seen), found, rtol=1e-6, atol=0.0)
    clusters.centres.view(K, 1, SIDE, SIDE)[0, HALF] += 3.0
    assert not torch.allclose(cluster_law(clusters, seen), found, rtol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_pixels_that_come_twice_say_nothing_new(scale: float) -> None:
    """Nor do other units: images of twice the side, each pixel four times, have the same law; their block means too."""
    small, x = random_clusters(), some_images()
    mask = Seen.of(Mask(HALF), Mask(HALF).measure(x))
    wide = HALF.repeat_interleave(2, 1).repeat_interleave(2, 2)
    centres = scale * BlockMeans(2).lift(small.picture(torch.arange(K)))
    large, many = clusters_of(centres, small.shares), scale * BlockMeans(2).lift(x)
    assert large.square == 1
    again = Seen.of(Mask(wide), Mask(wide).measure(many))
    torch.testing.assert_close(cluster_law(large, again), cluster_law(small, mask), rtol=1e-4, atol=0.0)
    reduced = Seen.of(BlockMeans(2), BlockMeans(2).measure(many))
    every = Seen(Matrix(torch.eye(SIDE * SIDE), (1, SIDE, SIDE)), x)
    torch.testing.assert_close(cluster_law(large, reduced), cluster_law(small, every), rtol=1e-4, atol=0.0)


def test_the_number_of_dimensions() -> None:
    """By the eigenvalues of the second moment, with more rows than columns and with fewer; 6 of 6 unit vectors."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 6)))
    for rows in (x, x[:4]):
        values = np.linalg.eigvalsh(rows.numpy().T @ rows.numpy())
        assert effective_number(rows) == pytest.approx(values.sum() ** 2 / np.square(values).sum())
    assert effective_number(torch.eye(6)) == pytest.approx(6.0)
    assert effective_number(torch.zeros(3, 6)) == 0.0


def test_a_difference_of_two_groups_is_no_dimension_of_neighbours() -> None:
    """Half of the means are brighter by 50 in every pixel: of all differences that is nearly all, and 8 remain."""
    clusters = clusters_of(alike(HALF), torch.ones(16))
    assert dimensions(clusters, Mask(HALF)) == pytest.approx(8, rel=1e-4)
    clusters.centres.view(2, 8, -1)[:, :4] += 50.0
    assert dimensions(clusters, Mask(HALF)) == pytest.approx(8, rel=1e-4)


def test_equal_means_leave_the_shares() -> None:
    clusters = clusters_of(torch.full((K, 1, SIDE, SIDE), 0.3), torch.arange(1.0, K + 1))
    found = cluster_law(clusters, Seen.of(Mask(HALF), Mask(HALF).measure(some_images())))
    torch.testing.assert_close(found, clusters.shares.expand(5, -1), rtol=1e-6, atol=0.0)


def test_empty_clusters_and_those_of_other_classes_are_not_drawn() -> None:
    clusters, x = clusters_of(random_clusters().centres.view(K, 1, SIDE, SIDE), torch.ones(K), 2), some_images()
    clusters.shares[5] = 0.0
    clusters.shares_by_label.copy_(torch.tensor([[1, 1], [1, 0], [0, 1]]).repeat_interleave(4, 1) / 4)
    clusters.shares_by_label[0] = clusters.shares
    seen = Seen.of(Mask(HALF), Mask(HALF).measure(x))
    assert (cluster_law(clusters, seen)[:, 5] == 0).all()
    of_two = cluster_law(clusters, seen, torch.tensor([2]))
    assert (of_two[:, :4] == 0).all()
    torch.testing.assert_close(of_two.sum(1), torch.ones(5, dtype=torch.float64))


def test_an_image_on_a_mean_is_of_its_cluster() -> None:
    clusters = random_clusters()
    x = clusters.picture(torch.arange(K))
    found = cluster_law(clusters, Seen.of(Mask(HALF), Mask(HALF).measure(x)))
    torch.testing.assert_close(found, torch.eye(K, dtype=torch.float64))


def test_clusters_are_drawn_by_their_law() -> None:
    """30,000 draws: χ², p above 1e-3; a law of other images fails."""
    clusters, x = random_clusters(), some_images(2)
    law = cluster_law(clusters, Seen.of(Mask(HALF), Mask(HALF).measure(x)))
    u = torch.from_numpy(np.random.default_rng(0).random(30_000))
    counts = torch.bincount(drawn_by(law[:1].expand(30_000, -1), u), minlength=K).double().numpy()
    p = [stats.chisquare(counts + 1e-9, 30_000 * row.numpy() + 1e-9, sum_check=False).pvalue for row in law]
    assert p[0] > 1e-3 > p[1]


class Told(nn.Module):
    """A network that keeps the pictures that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.pictures = nn.Parameter(torch.ones(())), list[Tensor]()

    def forward(self, z: Tensor, gamma: Tensor, picture: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        assert picture is not None
        self.pictures.append(picture.detach().clone())
        return self.scale * picture + 0 * z


def told_model(network: nn.Module) -> Diffusion:
    """A model of the random clusters with this network, which predicts x̂_0."""
    model = Diffusion(network, (1, SIDE, SIDE), 17, predict="x0", clusters=K).eval()
    assert model.clusters is not None
    model.clusters.load_state_dict(random_clusters().state_dict())
    return model


@pytest.mark.parametrize("words", METHODS)
def test_the_network_is_told_a_cluster_of_each_draw(words: str) -> None:
    """The same at every step, all particles of an image the same, drawing j of image i whatever their number."""
    network, told = Told(), {}
    model = told_model(network)
    assert model.clusters is not None
    method, x = METHODS[words](), some_images(3).clamp(-1, 1)
    for n in (2, 40):
        network.pictures = []
        DiffusionEditor(model, 3, True).conditioned(Task(x, n, 0, 4096, False, Mask(HALF)), method)
        first, *others = network.pictures
        assert all(torch.equal(first, other) for other in others)
        each = first.reshape(3, n, method.particles, -1)
        assert (each == each[:, :, :1]).all()
        told[n] = each[:, :, 0]
    assert torch.equal(told[2], told[40][:, :2])
    law = cluster_law(model.clusters, Seen.of(Mask(HALF), Mask(HALF).measure(x)))
    pictures = model.clusters.picture(torch.arange(K)).flatten(1)
    drawn = (told[40][:, :, None] == pictures).all(3).double()
    assert (drawn.sum(2) == 1).all()
    assert (drawn.mean(1) - law).abs().max() < 4 * 0.5 / 40**0.5  # four standard errors of a share


def test_variations_are_told_a_cluster_of_their_noise() -> None:
    """At S = 1 one of the shares, which is the same at every step: χ² of 600 draws, p above 1e-3; γ is 13 there."""
    network = Told()
    model = told_model(network)
    assert model.clusters is not None
    DiffusionEditor(model, 3, True).varied(Task(some_images(1).clamp(-1, 1), 600, 0, 4096, False), 1.0)
    first, *others = network.pictures
    assert len(others) == 2
    assert all(torch.equal(first, other) for other in others)
    pictures = model.clusters.picture(torch.arange(K)).flatten(1)
    counts = (first.flatten(1)[:, None] == pictures).all(2).double().sum(0).numpy()
    assert stats.chisquare(counts, 600 * model.clusters.shares.numpy(), sum_check=False).pvalue > 1e-3


def test_the_way_to_a_latent_and_back_is_told_the_nearest_cluster() -> None:
    """The nearest mean by torch.cdist, at every step both ways."""
    network, x = Told(), some_images(3).clamp(-1, 1)
    model = told_model(network)
    DiffusionEditor(model, 3, True).latents(Task(x, 1, 0, 4096, False))
    means = random_clusters().picture(torch.arange(K))
    nearest = means[torch.cdist(x.flatten(1), means.flatten(1)).argmin(1)]
    assert len(network.pictures) > 2 * 3
    assert all(torch.equal(pictures, nearest) for pictures in network.pictures)


@pytest.mark.parametrize("batch", [2, 64])
def test_between_two_latents_both_means_are_mixed(batch: int) -> None:
    """In proportion to u, the place of an image on the way, whatever the batch."""
    network, ends = Told(), torch.stack([torch.full((1, SIDE, SIDE), value) for value in (-0.5, 0.5)])
    z = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    images = DiffusionEditor(told_model(network), 3, True).between(z, ends, 5, batch)
    u = torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5])[:, None, None, None].expand(5, 1, SIDE, SIDE)
    assert torch.equal(images, to_levels(u, 17))  # the network's x̂_0 is the picture
    parts = torch.split(u, batch)
    steps = len(network.pictures) // len(parts)
    assert all(
        torch.equal(a, b) for a, b in zip(network.pictures, [p for p in parts for _ in range(steps)], strict=True)
    )


def test_without_clusters_nothing_is_told() -> None:
    """A network of (z, γ) alone draws."""
    network = nn.Conv2d(1, 1, 1)
    model = Diffusion(network, (1, SIDE, SIDE), 17, predict="x0", condition=lambda net, z, gamma: net(z)).eval()
    task = Task(some_images().clamp(-1, 1), 1, 0, 64, False, Mask(HALF))
    assert len(DiffusionEditor(model, 3, True).conditioned(task, METHODS["guidance"]()).images) == 5
