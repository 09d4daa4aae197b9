"""A threshold for a rate of false alarms, against simulations with known laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.metrics import false_alarm_threshold
from nelbo.metrics.anomaly import FalseAlarmThreshold, rank_of_rate

SETS = 4000


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (200, 0.05), (40, 0.3)])
def test_the_rate_of_a_threshold_has_the_law_of_beta(n: int, rate: float) -> None:
    """4,000 sets of scores with the law Exp(1), for which P(a new score > t) = e^−t exactly.

    Kolmogorov–Smirnov against Beta(k, n − k + 1); its mean is k/(n + 1) ≤ the stated rate, within 4 standard errors;
    and the 95% interval holds 95%, within 4 of its own.
    """
    scores = torch.from_numpy(np.random.default_rng(0).exponential(size=(SETS, n)))
    found = [false_alarm_threshold(row, rate) for row in scores]
    rank = found[0].rank
    true = np.exp([-each.value for each in found])
    assert stats.kstest(true, stats.beta(rank, n - rank + 1).cdf).pvalue > 1e-3
    assert found[0].expected_rate == rank / (n + 1) <= rate < (rank + 1) / (n + 1)
    assert abs(true.mean() - found[0].expected_rate) < 4 * true.std() / SETS**0.5
    low, high = found[0].interval()
    inside = float(((low < true) & (true < high)).mean())
    assert abs(inside - 0.95) < 4 * (0.95 * 0.05 / SETS) ** 0.5


def test_the_interval_is_scipys() -> None:
    for rank, n in ((1, 99), (3, 179), (50, 60)):
        found = FalseAlarmThreshold(0.0, rank, n).interval(0.9)
        assert found == pytest.approx(stats.beta(rank, n - rank + 1).interval(0.9), rel=1e-9)


def test_a_new_image_is_over_it_as_often_as_stated() -> None:
    """Scores of any law, here a mixture with ties: a new one is above with probability at most k/(n + 1)."""
    random = np.random.default_rng(1)
    scores = random.standard_normal((SETS, 51)).round(1)
    over = [float(row[0]) > false_alarm_threshold(torch.from_numpy(row[1:]), 0.1).value for row in scores]
    k = 5
    assert np.mean(over) <= k / 51 + 3 * (k / 51 / SETS) ** 0.5


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(99, 0.01, 1), (98, 0.01, 0), (99, 0.29, 29), (99, 0.07, 7), (9, 0.1, 1), (1, 0.4, 0)]
)
def test_the_rank_of_a_rate(n: int, rate: float, rank: int) -> None:
    """The largest k with k/(n + 1) ≤ rate, whatever float rounding does to their product."""
    assert rank_of_rate(n, rate) == rank
    assert rank_of_rate(n, 1 / (n + 1)) == 1  # the smallest rate that n images can state
    scores = torch.arange(n, dtype=torch.float64)
    if rank:
        assert false_alarm_threshold(scores, rate).value == n - rank
    else:
        with pytest.raises(ValueError, match="too few"):
            false_alarm_threshold(scores, rate)
