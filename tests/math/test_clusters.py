"""Clusters: k-means against scikit-learn's, averaged pixels against numpy's, frequencies against counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from nelbo.nn.clusters import MEMBERS, ROUNDS, Clusters

SHAPE = (2, 6, 5)


def images(n: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """Blobs of levels 0 … 15, in six sorts."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randint(2, 14, (6, *shape), generator=draw)
    noise = torch.randint(-2, 3, (n, *shape), generator=draw)
    return (kinds[torch.randint(0, 6, (n,), generator=draw)] + noise).clamp(0, 15).to(torch.uint8)


def test_the_centres_are_those_of_k_means() -> None:
    """Lloyd's algorithm from the same first centres, in float64 there and in float32 here; none is left empty."""
    x = images(400)
    mine = Clusters(SHAPE, 9)
    mine.learn(x, 16, seed=3)
    x_0 = (x.double().flatten(1) / 7.5 - 1).numpy()
    first = x_0[torch.randperm(400, generator=torch.Generator().manual_seed(3))[:9]]
    theirs = KMeans(9, init=first, n_init=1, max_iter=ROUNDS, tol=0, algorithm="lloyd").fit(x_0)
    torch.testing.assert_close(mine.centres.double(), torch.from_numpy(theirs.cluster_centers_), rtol=0, atol=1e-5)
    found = mine(torch.from_numpy(x_0).reshape(-1, *SHAPE).float())
    np.testing.assert_array_equal(found.numpy(), theirs.labels_)
    counts = np.bincount(theirs.labels_, minlength=9)
    assert counts.min() > 0
    np.testing.assert_allclose(mine.shares.numpy(), counts / 400, rtol=1e-6)


def test_with_labels_the_clusters_are_those_of_each_class() -> None:
    """By scikit-learn class by class, from its first images; a label that no image has has the clusters of all."""
    x = images(600)
    y = torch.randint(0, 3, (600,), generator=torch.Generator().manual_seed(1))
    mine = Clusters(SHAPE, 12, classes=3)
    mine.learn(x, 16, seed=3, labels=y)
    x_0 = (x.double().flatten(1) / 7.5 - 1).numpy()
    order = torch.randperm(600, generator=torch.Generator().manual_seed(3)).numpy()
    centres, shares, first = [], np.zeros((4, 12)), 0
    for kind in range(3):
        rows = order[y.numpy()[order] == kind]
        count = 1 + len(rows) * (12 - 3) // 600
        theirs = KMeans(count, init=x_0[rows[:count]], n_init=1, max_iter=ROUNDS, tol=0, algorithm="lloyd").fit(
            x_0[rows]
        )
        of_kind = slice(first, first + count)
        centres.append(theirs.cluster_centers_)
        shares[kind, of_kind] = np.bincount(theirs.labels_, minlength=count)
        if kind:
            own = mine(torch.from_numpy(x_0[rows]).reshape(-1, *SHAPE).float(), torch.full((len(rows),), kind))
            np.testing.assert_array_equal(own.numpy() - first, theirs.labels_)
        first += count
    wanted = np.concatenate(centres)
    assert 9 < len(wanted) <= 12
    np.testing.assert_allclose(mine.centres[: len(wanted)].numpy(), wanted, atol=1e-5)  # float32's round-off
    shares[0] = shares[3] = shares.sum(0)
    np.testing.assert_allclose(mine.shares.numpy(), shares[0] / 600, rtol=1e-12)
    by_label = shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(mine.shares_by_label.numpy(), by_label, rtol=1e-12)
    z = torch.from_numpy(x_0).reshape(-1, *SHAPE).float()
    nearest = ((x_0[:, None] - wanted) ** 2).sum(2).argmin(1)
    for label in (None, torch.full((600,), 3)):
        np.testing.assert_array_equal(mine(z, label).numpy(), nearest)
    cost = mine.cost(torch.arange(12), torch.full((12,), 2)).numpy()
    np.testing.assert_allclose(cost[by_label[2] > 0], -np.log(by_label[2][by_label[2] > 0]), rtol=1e-12)


def test_with_more_classes_than_clusters_the_centres_are_those_of_all_images() -> None:
    x, y = images(200), torch.arange(200)
    with_labels, without = Clusters(SHAPE, 6, classes=199), Clusters(SHAPE, 6)
    with_labels.learn(x, 16, seed=0, labels=y)
    without.learn(x, 16, seed=0)
    assert torch.equal(with_labels.centres, without.centres)
    assert torch.equal(with_labels.shares, without.shares)
    x_0 = x.float() / 7.5 - 1
    own = with_labels(x_0[1:], y[1:])  # the only image of each class is in one cluster
    assert torch.equal(own, without(x_0[1:]))
    assert float(with_labels.cost(own, y[1:]).abs().max()) == 0


@pytest.mark.parametrize(("height", "width", "square"), [(28, 28, 2), (16, 9, 1), (33, 20, 3)])
def test_images_are_seen_by_squares_of_pixels(height: int, width: int, square: int) -> None:
    """Means of squares, of what there is of them at the edges, by numpy; to float32's round-off."""
    x = torch.rand(3, 2, height, width)
    clusters = Clusters((2, height, width), 4)
    assert clusters.square == square
    rows, columns = np.arange(0, height, square), np.arange(0, width, square)
    sums = np.add.reduceat(np.add.reduceat(x.double().numpy(), rows, axis=2), columns, axis=3)
    size = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    found = clusters.look(x)
    assert found.shape[1] == clusters.centres.shape[1]
    np.testing.assert_allclose(found.numpy(), (sums / size).reshape(3, -1), atol=1e-6)


def test_clusters_are_drawn_by_their_shares() -> None:
    """A grid of uniform numbers meets each cluster as often as it has images, and an empty one never."""
    clusters = Clusters(SHAPE, 5)
    clusters.shares.copy_(torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]))
    drawn = clusters.drawn((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert torch.bincount(drawn, minlength=5).tolist() == [200, 0, 500, 300, 0]
    ends = clusters.drawn(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [0, 3]


def test_there_are_no_more_clusters_than_images_can_fill() -> None:
    """Of 16, 130 images fill 6; the others are never the nearest, though an image of zeros is nearer to them."""
    clusters = Clusters(SHAPE, 16)
    clusters.learn(images(130), 16, seed=0)
    assert int((clusters.shares > 0).sum()) <= 130 // MEMBERS
    assert set(clusters(torch.zeros(2, *SHAPE)).tolist()) <= set(range(130 // MEMBERS))
    assert float(clusters.shares.sum()) == pytest.approx(1.0, abs=1e-12)


def test_equal_images_are_one_cluster_and_few_are_enough() -> None:
    for n in (3, 100):
        clusters = Clusters(SHAPE, 4)
        clusters.learn(images(1).expand(n, -1, -1, -1), 16, seed=0)
        assert clusters.shares.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert bool(clusters.centres.isfinite().all())


def test_before_it_has_learned_every_image_is_in_the_first() -> None:
    assert Clusters(SHAPE, 3)(torch.randn(5, *SHAPE)).tolist() == [0] * 5
