"""Distances between sets of features, against closed forms, other libraries, and their standard deviations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians, random_cov
from scipy.linalg import sqrtm
from scipy.stats import chi2_contingency, chisquare
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor

from nelbo.metrics.distances import frechet_distance, frechet_of_moments, kernel, kernel_distance, second_order_variance
from nelbo.metrics.manifold import manifold, memorisation, nearest
from nelbo.metrics.quality import measure_modes


def test_frechet_of_shifted_gaussians_is_the_shift() -> None:
    cov, shift = random_cov(5), gaussians(5)
    found = frechet_of_moments(torch.zeros(5, dtype=torch.float64), cov, shift, cov)
    assert found == pytest.approx(float(shift.square().sum()), rel=1e-10)


def test_frechet_of_axis_aligned_gaussians() -> None:
    """S and R diagonal: Σ (√s − √r)²."""
    s, r, zero = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 2.0]).double(), torch.zeros(3).double()
    expected = float((s.sqrt() - r.sqrt()).square().sum())
    assert frechet_of_moments(zero, s.diag(), zero, r.diag()) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_any_gaussians_is_scipys() -> None:
    cov, other, mean = random_cov(6), random_cov(6, seed=1), gaussians(6, seed=2)
    root = sqrtm(cov.numpy() @ other.numpy()).real
    expected = float(mean.square().sum()) + np.trace(cov.numpy() + other.numpy() - 2 * root)
    found = frechet_of_moments(mean, cov, torch.zeros_like(mean), other)
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_of_sets_is_that_of_their_moments_and_torchmetrics() -> None:
    x, y = gaussians(60, 4), 0.5 * gaussians(50, 4, seed=1) + 1
    found = frechet_distance(x, y).value
    moments = [np.mean(x.numpy(), 0), np.cov(x.numpy().T), np.mean(y.numpy(), 0), np.cov(y.numpy().T)]
    assert found == pytest.approx(frechet_of_moments(*(torch.from_numpy(m) for m in moments)), rel=1e-10)
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Same(torch.nn.Module):
        num_features = 4

        def forward(self, images: Tensor) -> Tensor:
            return images

    theirs = fid.FrechetInceptionDistance(feature=Same(), normalize=True).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert found == pytest.approx(float(theirs.compute()), rel=1e-6)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_a_set_is_no_distance_from_itself(distance) -> None:
    """FD exactly; KD, unbiased, a little below zero, as pairs of a point with itself count on one side only."""
    x = gaussians(200, 5)
    found = distance(x, x).value
    assert found == pytest.approx(0.0, abs=1e-9) if distance is frechet_distance else -0.5 < found < 0


def by_sklearn(x: Tensor, y: Tensor) -> float:
    """KD from scikit-learn's kernel, pair by pair."""
    n, m = len(x), len(y)
    in_x, in_y, across = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    off = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (in_x, in_y)]
    return float(off[0] + off[1] - 2 * across.sum() / (n * m))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (7, 12), (30, 5)])
def test_kernel_distance_is_its_definition_and_its_error_the_jackknifes(n: int, m: int) -> None:
    """Each row left out in turn, and the distance taken anew, less what the jackknife counts twice."""
    x, y = gaussians(n, 4), gaussians(m, 4, seed=1) + 0.5
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(by_sklearn(x, y), rel=1e-9)
    if min(n, m) < 4:
        assert found.stderr > 0
        return
    variance = 0.0
    for own, other in ((x, y), (y, x)):
        left = np.array([by_sklearn(torch.cat([own[:i], own[i + 1 :]]), other) for i in range(len(own))])
        variance += (len(own) - 1) / len(own) * ((left - left.mean()) ** 2).sum()
    second = float(second_order_variance(kernel(x, x), kernel(y, y), kernel(x, y)))
    assert found.stderr == pytest.approx(math.sqrt(max(second / 2, variance - second)), rel=1e-6)


def test_the_second_order_variance_is_unbiased() -> None:
    """(ab + 1)³ centred is a³b³ + 3 (a² − 1)(b² − 1) + 3ab, of mean square 15² + 9·2² + 9 + 6·3² for normal a, b."""
    n, m = 12, 9
    found = []
    for seed in range(3000):
        x, y = gaussians(n, 1, seed=2 * seed), gaussians(m, 1, seed=2 * seed + 1)
        found.append(second_order_variance(kernel(x, x), kernel(y, y), kernel(x, y)))
    assert_mean(torch.stack(found), 324 * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)), 4)


@pytest.mark.parametrize(
    ("n", "m", "shift"), [(60, 60, 0.0), (40, 120, 0.0), (60, 60, 0.1), (60, 60, 0.7), (40, 120, 0.7)]
)
def test_kernel_distance_is_unbiased_and_its_error_its_spread(n: int, m: int, shift: float) -> None:
    """600 pairs of sets, of one law and of two: KD's mean within 4 errors, the claimed error within 12% of the spread.

    A spread of 600 is known to 4%. The jackknife's error is 1.4 times the spread where both laws are one. Two claimed
    errors cover 90% or more. The KD of a shift is that of 3,000 rows.
    """
    runs = [kernel_distance(gaussians(n, 3, seed=2 * i), gaussians(m, 3, seed=2 * i + 1) + shift) for i in range(600)]
    values, claimed = np.array([run.value for run in runs]), np.array([run.stderr for run in runs])
    assert claimed.mean() == pytest.approx(values.std(), rel=0.12)
    assert (abs(values - values.mean()) < 2 * claimed).mean() > 0.9
    many = kernel_distance(gaussians(3000, 3, seed=10**6), gaussians(3000, 3, seed=10**6 + 1) + shift)
    truth, error = (many.value, many.stderr) if shift else (0.0, 0.0)
    assert abs(values.mean() - truth) < 4 * math.hypot(values.std() / 600**0.5, error)


def brute_force(samples: Tensor, images: Tensor) -> tuple[float, float, float, float]:
    """precision, recall, density and coverage, point by point."""

    def ball(points: np.ndarray, i: int, k: int) -> float:
        return float(np.sort([np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i])[k - 1])

    x, y = samples.numpy(), images.numpy()
    inside = [[np.linalg.norm(a - b) <= ball(y, j, 3) for j, b in enumerate(y)] for a in x]
    recalled = [any(np.linalg.norm(a - b) <= ball(x, i, 3) for i, a in enumerate(x)) for b in y]
    in_five = np.array([[np.linalg.norm(a - b) <= ball(y, j, 5) for j, b in enumerate(y)] for a in x])
    return (
        float(np.mean([any(row) for row in inside])),
        float(np.mean(recalled)),
        float(in_five.sum() / (5 * len(x))),
        float(in_five.any(0).mean()),
    )


def test_manifolds_are_their_definitions() -> None:
    samples, images = gaussians(25, 3), 1.4 * gaussians(30, 3, seed=1) + 0.3
    assert manifold(samples, images) == pytest.approx(brute_force(samples, images))


def test_manifolds_of_known_sets() -> None:
    """The same set: all 1 but density, which counts. Far apart: all 0. One of two clusters: recall half."""
    one = gaussians(40, 2)
    same = manifold(one, one)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert tuple(manifold(one, one + 100)) == (0.0, 0.0, 0.0, 0.0)
    half = manifold(one, torch.cat([one, one + 100]))
    assert (half.precision, half.recall, half.coverage) == (1.0, 0.5, 0.5)


def test_copies_are_found_and_new_samples_are_not() -> None:
    train, unseen, fresh = gaussians(400, 4), gaussians(300, 4, seed=1), gaussians(300, 4, seed=2)
    new = memorisation(fresh, unseen, train)
    assert abs(new.value - 0.5) < 4 * new.stderr
    copies = train[:300] + 1e-3 * fresh
    assert memorisation(copies, unseen, train).value > 0.999
    distance, index = nearest(copies, train)
    assert index.tolist() == list(range(300))
    torch.testing.assert_close(distance, 1e-3 * fresh.norm(dim=1), rtol=1e-3, atol=1e-6)


def test_modes_are_counted() -> None:
    sure = torch.eye(3)[torch.tensor([0] * 30 + [1] * 60 + [2] * 10)]
    images = torch.eye(3)[torch.tensor([0] * 100 + [1] * 100 + [2] * 100)] * 0.85 + 0.05
    found = measure_modes(sure, images)
    assert found.counts == [30, 60, 10]
    assert (found.readable, found.readable_images) == (1.0, 1.0)
    expected = chi2_contingency(np.array([[30, 60, 10], [100, 100, 100]]), correction=False).pvalue
    assert found.p_value == pytest.approx(expected)
    unsure = torch.full((10, 3), 1 / 3)
    assert measure_modes(unsure, images).readable == 0.0


def test_modes_of_labels_are_compared_with_what_was_asked_for() -> None:
    asked = torch.tensor([0, 1] * 50)
    images = torch.eye(3)[torch.tensor([0, 1, 2] * 100)]
    swapped = asked.clone()
    swapped[:10] = 1 - asked[:10]
    found = measure_modes(torch.eye(3)[swapped], images, asked)
    assert (found.as_asked, found.p_value) == (0.9, 1.0)  # ten are of the wrong class, and the counts are right
    missing = torch.where(torch.arange(100) < 20, 1, asked)
    found = measure_modes(torch.eye(3)[missing], images, asked)
    assert found.as_asked == 0.9
    assert found.p_value == pytest.approx(chisquare([40, 60], [50, 50]).pvalue)
    assert measure_modes(torch.eye(3)[asked + 1], images, asked).p_value == 0.0


@pytest.mark.parametrize("few", [1, 2, 5])
def test_too_few_are_refused(few: int) -> None:
    x, enough = gaussians(few, 3), gaussians(10, 3)
    if few < 2:
        with pytest.raises(ValueError, match="at least 2"):
            frechet_distance(x, enough)
    if few < 3:
        with pytest.raises(ValueError, match="at least 3"):
            kernel_distance(enough, x)
    with pytest.raises(ValueError, match="at least 6"):
        manifold(x, enough)
