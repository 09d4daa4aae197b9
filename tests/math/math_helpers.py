"""Helpers of the tests in math: schedules, random matrices, and means with their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import settings
from scipy import stats
from torch import Tensor

from nelbo.diffusion.known import Known
from nelbo.diffusion.schedules import SCHEDULES, as_schedule, chain_of
from nelbo.models.diffusion import Diffusion
from nelbo.theory.bound import Bound
from nelbo.theory.exact import Coefficients

settings.register_profile("nelbo-math", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("nelbo-math")

EPS = torch.finfo(torch.float64).eps
"""The spacing of float64 at 1: every 'to round-off' below is a multiple of it."""

CASES = [(name, T) for name in SCHEDULES for T in (1, 2, 3, 10, 21, 50, 1000) if name != "linear" or T > 20]
"""Every schedule at several T. A schedule added to SCHEDULES is tested by being there."""

every_schedule = pytest.mark.parametrize(("name", "T"), CASES)
schedules_at_30 = pytest.mark.parametrize("name", list(SCHEDULES))


def gammas_of(name: str, T: int) -> Tensor:
    """−∞, γ_1, …: the chain of a schedule in T steps."""
    return chain_of(as_schedule(name).grid(T))


def table_of(name: str, T: int) -> Coefficients:
    """DDPM's tables of the same chain, computed apart from what is tested."""
    return Coefficients(gammas_of(name, T))


def gaussians(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def random_cov(dims: int, seed: int = 0) -> Tensor:
    """A covariance with no zero in it and no symmetry to hide behind: eigenvalues spread over about 0.1 … 3."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    return torch.from_numpy(basis @ np.diag(np.geomspace(0.1, 3.0, dims)) @ basis.T)


def one_step_evidence(model: Diffusion, parts: Sequence[tuple[float, Callable[[Tensor], Known]]]) -> np.ndarray:
    """Σ_c P(c) p(x|c) of every level for a pixel and a chain of one step, by quadrature over z_1 from N(0, 1).

    Args:
        model: for images of shape (1, 1, 1).
        parts: P(c), and z → what is known of c for each z.
    """
    z = torch.linspace(-7, 7, 2801).reshape(-1, 1, 1, 1)
    gamma = torch.full((len(z),), float(model.timeline.chain()[1]), dtype=torch.float64)
    place = z.flatten().double().numpy()
    weight, evidence = np.gradient(place) * stats.norm.pdf(place), np.zeros(model.levels)
    for share, known in parts:
        told = model.denoiser.given(known(z))(z, gamma)
        levels = torch.arange(model.levels, dtype=torch.uint8).reshape(-1, 1, 1, 1, 1)
        nll = [model.decoder.nll(level.expand_as(z), told, z, gamma).flatten() for level in levels]
        evidence += share * (weight * np.exp(-torch.stack(nll).double().detach().numpy())).sum(1)
    assert evidence.sum() == pytest.approx(1.0, abs=1e-4)
    return evidence


def assert_bound_needs_its_cluster(found: Bound, evidence: np.ndarray, error: float = 0.03) -> None:
    """The total is at least −ln p(x), up to three errors of 400 draws; without the term of the cluster it is not."""
    total, cluster = found.total.numpy(), found.terms["cluster"].numpy()
    assert bool((total >= -np.log(evidence) - error).all())
    assert not bool((total - cluster >= -np.log(evidence) - error).all())


def assert_mean(samples: Tensor, truth: Tensor | float, sigmas: float = 3.0, bias: float = 0.0) -> None:
    """The mean of samples along dimension 0 is the truth, within ``sigmas`` of its own standard errors.

    ``bias`` allows for what is not noise: float32 round-off. That of a mean of n equal float64 numbers, n 2^−53 of them
    at most, is always allowed: their order of addition, and with it the result, is the machine's.
    """
    samples, truth = samples.double(), torch.as_tensor(truth, dtype=torch.float64)
    error = samples.mean(0) - truth
    stderr = samples.std(0) / len(samples) ** 0.5
    allowed = sigmas * stderr + bias + len(samples) * 2.0**-53 * truth.abs()
    assert bool((error.abs() <= allowed).all()), f"{(error / stderr).abs().max():.2f} s.e. off"
