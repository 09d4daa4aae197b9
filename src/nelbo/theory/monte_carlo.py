"""KL(q‖p) and its standard error from samples of q, for distributions without a closed form in any dimension."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.theory.discrete import INFINITE


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        mean: the estimate.
        stderr: its standard error, from the standard deviation of the samples.
    """

    mean: Tensor
    stderr: Tensor


def kl_monte_carlo(log_q: Tensor, log_p: Tensor) -> Estimate:
    """KL(q‖p) = E_q[ln q(x) − ln p(x)] ≈ (1/n) Σ_i [ln q(x_i) − ln p(x_i)] with x_i ~ q, unbiased.

    Both densities must be normalised, and samples cannot verify this: a factor c of p changes the result by −ln c.

    Args:
        log_q, log_p: ln q(x_i) and ln p(x_i) at independent samples of q, in nats, shape (n, …), n ≥ 2.

    Returns:
        The estimate and its standard error in nats, shape (…); an estimate can be negative.

    Raises:
        ValueError: n < 2, ln q is not finite at a sample, or ln p is not finite (the divergence is infinite at −∞).
    """
    return _mean(-_log_ratio(log_q, log_p))


def kl_monte_carlo_low_variance(log_q: Tensor, log_p: Tensor) -> Estimate:
    """KL(q‖p) = E_q[r − 1 − ln r] with r = p/q, x_i ~ q (k3 of Schulman 2020, "Approximating KL divergence").

    Every summand is at least 0. The term r − 1 has mean 0 under q and cancels the first order of ln r, so similar
    distributions need far fewer samples. The mean is 0 only if q has density wherever p has; otherwise the estimate is
    too low by p's mass outside q's support.

    Args, returns and raises as :func:`kl_monte_carlo`; the estimate is never negative.
    """
    log_ratio = _log_ratio(log_q, log_p)
    return _mean(torch.expm1(log_ratio) - log_ratio)


def _log_ratio(log_q: Tensor, log_p: Tensor) -> Tensor:
    """ln r = ln p − ln q, checked to be finite."""
    if not bool(log_q.isfinite().all()):
        raise ValueError("ln q is not finite at a sample: the samples are not from a density q")
    if bool((log_p == -torch.inf).any()):
        raise ValueError(INFINITE)
    if not bool(log_p.isfinite().all()):
        raise ValueError("ln p is not finite at a sample: p is not a density")
    return log_p - log_q


def _mean(terms: Tensor) -> Estimate:
    """The mean of independent terms along the first dimension, and its standard error."""
    if len(terms) < 2:
        raise ValueError("a standard error needs at least 2 samples")
    return Estimate(terms.mean(0), terms.std(0) / len(terms) ** 0.5)
