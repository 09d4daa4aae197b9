"""KL(q‖p) estimated from samples of q, with its standard error: for laws without a closed form, in any dimension."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.theory.discrete import INFINITE


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        mean: the estimate.
        stderr: its standard error, from the spread of the samples.
    """

    mean: Tensor
    stderr: Tensor


def kl_monte_carlo(log_q: Tensor, log_p: Tensor) -> Estimate:
    """KL(q‖p) = E_q[ln q(x) − ln p(x)] ≈ (1/n) Σ_i [ln q(x_i) − ln p(x_i)] with x_i ~ q, unbiased.

    Both densities must be normalised, which samples cannot show: a factor of p changes the answer by its logarithm.

    Args:
        log_q, log_p: ln q(x_i) and ln p(x_i) at independent samples of q, in nats, shape (n, …), n ≥ 2.

    Returns:
        The estimate and its standard error, shape (…); an estimate may be negative, the divergence is not.

    Raises:
        ValueError: n < 2; a sample where q has no density; one where p has none, so that the divergence is infinite.
    """
    return _mean(-_log_ratio(log_q, log_p))


def kl_monte_carlo_low_variance(log_q: Tensor, log_p: Tensor) -> Estimate:
    """KL(q‖p) = E_q[r − 1 − ln r] with r = p/q, x_i ~ q (k3 of Schulman 2020, "Approximating KL divergence").

    No sample counts less than nothing, and laws that are near each other need far fewer of them: r − 1 has mean 0 under
    q and cancels the first order of ln r. That mean is 0 only if q has density wherever p has; otherwise the estimate
    is too low by p's mass outside q's support.

    Args, returns and raises as :func:`kl_monte_carlo`; the estimate is never negative.
    """
    log_ratio = _log_ratio(log_q, log_p)
    return _mean(torch.expm1(log_ratio) - log_ratio)


def _log_ratio(log_q: Tensor, log_p: Tensor) -> Tensor:
    """ln r = ln p − ln q, finite."""
    if not bool(log_q.isfinite().all()):
        raise ValueError("ln q is not finite at a sample: these are no samples of a density q")
    if bool((log_p == -torch.inf).any()):
        raise ValueError(INFINITE)
    if not bool(log_p.isfinite().all()):
        raise ValueError("ln p is not finite at a sample: it is no density")
    return log_p - log_q


def _mean(terms: Tensor) -> Estimate:
    """The mean of independent terms along the first dimension, and its standard error."""
    if len(terms) < 2:
        raise ValueError("a standard error needs at least 2 samples")
    return Estimate(terms.mean(0), terms.std(0) / len(terms) ** 0.5)
