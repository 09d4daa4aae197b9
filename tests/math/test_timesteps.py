"""The choice of t: every estimate is exactly unbiased, by integration over the uniform numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from math_helpers import gaussians

from nelbo.diffusion.timesteps import LossProfile, harmonic, stratified

laws = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20).map(
    lambda weights: torch.tensor(weights, dtype=torch.float64) / sum(weights)
)


def integrate_stratum(p: torch.Tensor, strata: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """E[1{index_k = i}] and E[weight_k · 1{index_k = i}] over u_k, exactly: both are step functions of u_k.

    The steps are where (k + u)/K meets the distribution function; between two of them any point will do.
    """
    breaks = (strata * p.cumsum(0) - k).clamp(0, 1)
    breaks = torch.cat([torch.zeros(1).double(), breaks, torch.ones(1).double()]).sort().values
    lengths, middles = breaks.diff(), (breaks[1:] + breaks[:-1]) / 2
    u = torch.full((len(middles), strata), 0.5, dtype=torch.float64)
    u[:, k] = middles
    index, weight = stratified(u, p)
    zero = torch.zeros(len(p), dtype=torch.float64)
    return zero.index_add(0, index[:, k], lengths), zero.index_add(0, index[:, k], lengths * weight[:, k])


@given(laws, st.integers(1, 12))
def test_stratified_is_unbiased_exactly(p: torch.Tensor, strata: int) -> None:
    """Σ_k E[weight_k 1{index_k = i}] = 1 for every i, so E[Σ_k weight_k f(index_k)] = Σ_i f(i) for every f.

    1e-9 allows for breakpoints that miss by round-off, times weights of up to 1/p.
    """
    parts = [integrate_stratum(p, strata, k) for k in range(strata)]
    expected_weight = torch.stack([weight for _, weight in parts]).sum(0)
    torch.testing.assert_close(expected_weight, torch.ones_like(p), rtol=0, atol=1e-9)
    visits = torch.stack([visit for visit, _ in parts]).sum(0)
    torch.testing.assert_close(visits, strata * p, rtol=0, atol=1e-9)


@given(st.integers(1, 300), st.integers(0, 2**31))
def test_uniform_with_as_many_strata_as_indices_visits_each_once(n: int, seed: int) -> None:
    u = torch.rand(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    index, weight = stratified(u, torch.full((n,), 1 / n, dtype=torch.float64))
    assert bool((index == torch.arange(n)).all())
    torch.testing.assert_close(weight, torch.ones(3, n, dtype=torch.float64), rtol=1e-12, atol=0)


@given(laws, st.integers(1, 12), st.sampled_from([0.0, 1 - 2**-53]))
def test_the_ends_of_the_unit_interval_are_in_range(p: torch.Tensor, strata: int, u: float) -> None:
    index, weight = stratified(torch.full((2, strata), u, dtype=torch.float64), p)
    assert bool(((index >= 0) & (index < len(p))).all())
    assert bool((index.diff(dim=1) >= 0).all())
    assert bool(weight.isfinite().all())


@pytest.mark.parametrize(("first", "last"), [(2, 2), (2, 3), (2, 30), (1, 1000), (7, 19)])
def test_harmonic_is_half_uniform_and_half_inverse(first: int, last: int) -> None:
    p = harmonic(first, last)
    t = torch.arange(first, last + 1, dtype=torch.float64)
    assert p.dtype == torch.float64
    assert float(p.sum()) == pytest.approx(1, abs=1e-13)
    n, H = len(t), sum(1 / k for k in range(first, last + 1))
    assert p.tolist() == pytest.approx([0.5 / n + 0.5 / (k * H) for k in range(first, last + 1)], rel=1e-12)


def taught(T: int, seed: int = 0) -> LossProfile:
    """A profile that has seen losses which fall steeply with t."""
    profile = LossProfile(T)
    t = torch.arange(1, T + 1)
    for _ in range(5):
        profile.update(t, 10.0 / t + gaussians(T, seed=seed).abs())
    return profile


@pytest.mark.parametrize("T", [1, 2, 3, 30, 63, 64, 65, 1000])
@pytest.mark.parametrize("make", [LossProfile, taught])
def test_the_profiles_draw_is_unbiased(T: int, make) -> None:
    """E[weight · 1{t = i}] = 1/T for every i, over a grid of M midpoints in u.

    {u : t = i} is one interval, so the grid measures it to 1/M at worst: an error of weight/M.
    """
    M = 400_000
    profile = make(T)
    u = (torch.arange(M, dtype=torch.float64) + 0.5) / M
    t, weight, place = profile.draw(u)
    assert int(t.min()) == 1
    assert int(t.max()) == T
    assert bool(((t - 1 <= place) & (place < t)).all())
    assert bool((t.diff() >= 0).all())  # by inversion: one interval of u for each t
    expected = torch.zeros(T + 1, dtype=torch.float64).index_add(0, t, weight)[1:] / M
    assert bool(((expected - 1 / T).abs() <= 1.01 * float(weight.max()) / M).all())
    squares = weight * t.double().square()
    mean = float(squares.mean())
    assert mean == pytest.approx((T + 1) * (2 * T + 1) / 6, rel=0, abs=128 * float(squares.max()) / M)


@pytest.mark.parametrize("T", [1, 2, 30, 1000])
def test_the_profiles_bins_cover_every_t_once(T: int) -> None:
    profile = LossProfile(T)
    bins = profile.bin_of(torch.arange(1, T + 1))
    assert int(bins[0]) == 0
    assert int(bins[-1]) == len(profile.mean_square) - 1
    assert bool((bins.diff() >= 0).all())
    assert bool((bins.diff() <= 1).all())
    assert float(profile.probabilities().sum()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("make", [LossProfile, taught])
def test_the_place_of_continuous_time_is_unbiased_too(make) -> None:
    """E[weight · τ²] = ∫ τ² dτ / T = T²/3, by midpoints in u: second order in the width of a bin's share of them."""
    M, T = 400_000, 30
    profile = make(T)
    _, weight, place = profile.draw((torch.arange(M, dtype=torch.float64) + 0.5) / M)
    assert float((weight * place**2).mean()) == pytest.approx(T**2 / 3, rel=3 * 64 / M * float(weight.max()))
    inside = place % 1
    assert float((weight * inside).mean()) == pytest.approx(0.5, abs=3 * 64 / M * float(weight.max()))


def test_before_any_loss_t_is_uniform() -> None:
    t, weight, _ = LossProfile(40).draw((torch.arange(40, dtype=torch.float64) + 0.5) / 40)
    assert t.tolist() == list(range(1, 41))
    assert weight.tolist() == pytest.approx([1.0] * 40)


@pytest.mark.parametrize("floor", [0.1, 0.5])
def test_the_law_follows_the_root_mean_square(floor: float) -> None:
    """Shown the same losses again and again, p(t) is the floor/T and the rest ∝ the bin's root mean square."""
    T = 50
    profile = LossProfile(T, floor=floor)
    t = torch.arange(1, T + 1)
    loss = gaussians(T) * 3 + 5 / t
    for _ in range(1500):  # 0.98^1500 = 7e-14 is left of the first guess
        profile.update(t, loss)
    bins = profile.bin_of(t)
    rms = torch.stack([loss[bins == b].square().mean().sqrt() for b in range(len(profile.mean_square))])
    size = torch.bincount(bins).double()
    expected = (1 - floor) * size * rms / (size * rms).sum() + floor * size / T
    torch.testing.assert_close(profile.probabilities(), expected, rtol=1e-10, atol=0)


def test_one_update_is_a_moving_average_of_mean_squares() -> None:
    """Two visits to a bin keep decay² of the old value; bins that were not visited keep theirs."""
    profile = LossProfile(10, bins=10, decay=0.9)
    t = torch.tensor([10, 10, 1])
    profile.update(t, torch.tensor([3.0, 1.0, 2.0]))
    last, first = int(profile.bin_of(torch.tensor([10]))), int(profile.bin_of(torch.tensor([1])))
    assert float(profile.mean_square[last]) == pytest.approx(0.81 * 1 + 0.19 * 5)
    assert float(profile.mean_square[first]) == pytest.approx(0.9 * 1 + 0.1 * 4)
    others = [b for b in range(len(profile.mean_square)) if b not in (first, last)]
    assert profile.mean_square[others].tolist() == [1.0] * len(others)


def test_the_profiles_law_lowers_the_variance() -> None:
    """What it is for: Var(weight · f) with the law ∝ f is below that of uniform t."""
    T, M = 1000, 100_000
    profile, t = LossProfile(T), torch.arange(1, T + 1)
    loss = 100.0 / t
    for _ in range(300):
        profile.update(t, loss)
    u = (torch.arange(M, dtype=torch.float64) + 0.5) / M
    drawn, weight, _ = profile.draw(u)
    uniform, *_ = LossProfile(T).draw(u)
    assert float((weight * 100.0 / drawn).var()) < 0.05 * float((100.0 / uniform).var())


def test_the_profile_is_saved_with_the_model() -> None:
    profile, again = taught(30), LossProfile(30)
    again.load_state_dict(profile.state_dict())
    assert bool((again.probabilities() == profile.probabilities()).all())
