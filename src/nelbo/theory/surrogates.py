"""Variational inference: a surrogate q for an unnormalised posterior.

    ln p(X=D) = ELBO(q) + KL(q(Z) ‖ p(Z|X=D)),   ELBO(q) = E_q[ln p(X=D, Z) − ln q(Z)]

The q with the largest ELBO has the smallest divergence (Jordan et al. 1999). Two unbiased estimators give the gradient
of the ELBO: reparameterised samples, and the score function.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nelbo.errors import InputError
from nelbo.rng import Draws, Stream

CPU = torch.device("cpu")
LogJoint = Callable[[Tensor], Tensor]
"""ln p(X=D, z) in nats, shape (S,) for z of shape (S, D); it may be unnormalised."""


class Surrogate(nn.Module, ABC):
    """q(Z), with unconstrained parameters.

    Attributes:
        reparameterised: whether samples carry gradients to the parameters.
    """

    reparameterised = True

    @abstractmethod
    def sample(self, draws: Draws, stream: Stream = Stream.TRAIN_NOISE) -> Tensor:
        """z of shape (S, D), one sample for each example of ``draws``."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """ln q(z) in nats, shape (S,) for z of shape (S, D)."""


class _Gaussian(Surrogate):
    """z = μ + L ε, ε ~ N(0, I)."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.detach().double().clone())
        self.log_diagonal = nn.Parameter(torch.zeros_like(self.mean))

    @abstractmethod
    def factor(self) -> Tensor:
        """L, lower triangular with a positive diagonal, shape (D, D)."""

    def sample(self, draws: Draws, stream: Stream = Stream.TRAIN_NOISE) -> Tensor:
        noise = draws.normal(stream, (len(self.mean),), torch.float64)
        return self.mean + noise @ self.factor().T

    def log_prob(self, z: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.factor(), (z - self.mean).T, upper=False)
        constant = self.log_diagonal.sum() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(0) - constant


class MeanField(_Gaussian):
    """q = ∏_d N(μ_d, σ_d²): independent coordinates, initially with σ = 1.

    Args:
        mean: the initial μ, shape (D,).
    """

    def factor(self) -> Tensor:
        return torch.diag(self.log_diagonal.exp())


class FullRank(_Gaussian):
    """q = N(μ, L Lᵀ), with L a Cholesky factor of diagonal exp(·), initially the identity (Kucukelbir et al. 2017).

    Args:
        mean: the initial μ, shape (D,).
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean)
        self.lower = nn.Parameter(torch.zeros(len(mean), len(mean), dtype=torch.float64))

    def factor(self) -> Tensor:
        return self.lower.tril(-1) + torch.diag(self.log_diagonal.exp())


class Family(Surrogate):
    """Any distribution of torch.distributions.

    Args:
        build: unconstrained parameters, shape (P,), to a distribution over vectors of shape (D,).
        start: the initial parameters, shape (P,).

    Raises:
        InputError: the distribution has a batch shape, or its event is not a vector.
    """

    def __init__(self, build: Callable[[Tensor], Distribution], start: Tensor) -> None:
        super().__init__()
        self.build, self.free = build, nn.Parameter(start.detach().double().clone())
        law = build(self.free)
        if law.batch_shape or len(law.event_shape) != 1:
            shapes = f"batch shape {tuple(law.batch_shape)}, event shape {tuple(law.event_shape)}"
            raise InputError("build", f"gives {shapes}, not () and (D,); wrap it in torch.distributions.Independent")
        self.reparameterised = law.has_rsample

    def sample(self, draws: Draws, stream: Stream = Stream.TRAIN_NOISE) -> Tensor:
        law, shape = self.build(self.free), (len(draws.indices),)
        # torch.distributions draws from the global generator: lend it a seed and put it back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draws.integer(stream))
            return law.rsample(shape) if self.reparameterised else law.sample(shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.build(self.free).log_prob(z)


def log_ratio(log_joint: LogJoint, q: Surrogate, z: Tensor) -> Tensor:
    """ln p(X=D, z) − ln q(z), whose mean over q is the ELBO, in nats, shape (S,).

    Args:
        log_joint: ln p(X=D, ·).
        q: the surrogate.
        z: samples, shape (S, D).

    Raises:
        InputError: the result of ``log_joint`` has another shape, or is not finite at a sample.
    """
    value = log_joint(z)
    if value.shape != z.shape[:1]:
        raise InputError("log_joint", f"gives shape {tuple(value.shape)} for z of {tuple(z.shape)}, not ({len(z)},)")
    bad = ~value.isfinite()
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise InputError("log_joint", f"is {value[i].item()} at z = {z[i].tolist()}; choose a q with its support")
    return value - q.log_prob(z)


class Objective(NamedTuple):
    """The ELBO's terms from one batch of samples, and a value to differentiate.

    Attributes:
        terms: ln p(X=D, z) − ln q(z), without gradients, in nats, shape (S,).
        value: a scalar whose gradient estimates the ELBO's gradient; its own value has no meaning.
    """

    terms: Tensor
    value: Tensor


Estimator = Callable[[LogJoint, Surrogate, Draws], Objective]


def reparameterised(log_joint: LogJoint, q: Surrogate, draws: Draws) -> Objective:
    """∇ELBO = E_ε ∇[ln p(X=D, z(ε)) − ln q(z(ε))]: Kingma & Welling 2014.

    Args:
        log_joint: ln p(X=D, ·), differentiable.
        q: a surrogate with reparameterised samples.
        draws: the random numbers, one example for each of the S samples.

    Raises:
        InputError: samples of q carry no gradients.
    """
    if not q.reparameterised:
        raise InputError("q", "has no reparameterised samples; use score_function")
    terms = log_ratio(log_joint, q, q.sample(draws))
    return Objective(terms.detach(), terms.mean())


def score_function(log_joint: LogJoint, q: Surrogate, draws: Draws) -> Objective:
    """∇ELBO = E_q[f ∇ln q(z)], f = ln p(X=D, z) − ln q(z): Williams 1992; Ranganath et al. 2014 (2).

    Arguments as in :func:`reparameterised`; log_joint need not be differentiable.
    """
    terms, log_q = _scored(log_joint, q, draws)
    return Objective(terms, (terms * log_q).mean())


def leave_one_out(log_joint: LogJoint, q: Surrogate, draws: Draws) -> Objective:
    """The score-function estimator with the baseline mean_{j ≠ i} f_j subtracted from f_i: Kool et al. 2019.

    Arguments as in :func:`score_function`.

    Raises:
        InputError: S < 2.
    """
    count = len(draws.indices)
    _require_count(count)
    terms, log_q = _scored(log_joint, q, draws)
    baseline = (terms.sum() - terms) / (count - 1)
    return Objective(terms, ((terms - baseline) * log_q).mean())


def _scored(log_joint: LogJoint, q: Surrogate, draws: Draws) -> tuple[Tensor, Tensor]:
    """f without gradients, and ln q with gradients, at samples without gradients."""
    with torch.no_grad():
        z = q.sample(draws)
        terms = log_ratio(log_joint, q, z)
    return terms, q.log_prob(z)


def _require_count(count: int) -> None:
    if count < 2:
        raise InputError("count", f"is {count}; a standard error or a baseline needs at least 2 samples")


class Estimate(NamedTuple):
    """A number and its Monte Carlo standard error, in nats."""

    value: float
    stderr: float


class FitStep(NamedTuple):
    """One step of a fit: its number, from 1, and the estimated ELBO before it."""

    step: int
    elbo: Estimate


def fit(
    log_joint: LogJoint,
    q: Surrogate,
    *,
    steps: int = 1000,
    count: int = 32,
    rate: float = 0.05,
    seed: int = 0,
    estimator: Estimator | None = None,
) -> Iterator[FitStep]:
    """Maximise the ELBO by Adam, with a learning rate that decreases linearly to 0; q is changed in place.

    Args:
        log_joint: ln p(X=D, ·).
        q: the surrogate, at its initial parameters.
        steps: the number of steps.
        count: S ≥ 2, samples for each step.
        rate: Adam's learning rate at the first step.
        seed: the seed of all samples.
        estimator: of the gradient; by default ``reparameterised`` if q allows it, else ``leave_one_out``.

    Yields:
        The step and the ELBO estimated from its samples.

    Raises:
        InputError: count < 2, a result of ``log_joint`` has another shape, or it or a gradient is not finite.
    """
    _require_count(count)
    estimate = estimator or (reparameterised if q.reparameterised else leave_one_out)
    adam = torch.optim.Adam(q.parameters(), lr=rate)
    for step in range(1, steps + 1):
        for group in adam.param_groups:
            group["lr"] = rate * (1 - (step - 1) / steps)
        objective = estimate(log_joint, q, Draws(seed, step, range(count), count, CPU))
        adam.zero_grad()
        (-objective.value).backward()  # type: ignore[no-untyped-call]
        if not all(bool(p.grad.isfinite().all()) for p in q.parameters() if p.grad is not None):
            raise InputError("log_joint", f"has a gradient that is not finite at step {step}")
        adam.step()
        yield FitStep(step, _mean(objective.terms))


@torch.no_grad()
def elbo(log_joint: LogJoint, q: Surrogate, count: int = 10_000, seed: int = 0) -> Estimate:
    """E_q[ln p(X=D, Z) − ln q(Z)], estimated by the mean over samples.

    Args:
        log_joint: ln p(X=D, ·).
        q: the surrogate.
        count: S ≥ 2, the number of samples.
        seed: the seed of the samples, which differ from those of every fit.

    Returns:
        The ELBO and its standard error, in nats.

    Raises:
        InputError: count < 2, or a result of ``log_joint`` has another shape or is not finite.
    """
    _require_count(count)
    return _mean(log_ratio(log_joint, q, q.sample(Draws(seed, 0, range(count), count, CPU), Stream.SCORE_NOISE)))


@torch.no_grad()
def log_evidence(log_joint: LogJoint, q: Surrogate, count: int = 10_000, seed: int = 0) -> Estimate:
    """ln (1/S) Σ_i p(X=D, z_i)/q(z_i), z_i ~ q: Burda et al. 2016 (8). Its mean is at most ln p(X=D).

    The standard error is the delta method's, σ(w)/(mean(w) √S). It is too small if q has lighter tails than the
    posterior. Arguments, returns and errors as in :func:`elbo`.
    """
    _require_count(count)
    terms = log_ratio(log_joint, q, q.sample(Draws(seed, 0, range(count), count, CPU), Stream.SCORE_NOISE))
    log_mean = terms.logsumexp(0) - math.log(count)
    return Estimate(float(log_mean), float((terms - log_mean).exp().std() / count**0.5))


def _mean(terms: Tensor) -> Estimate:
    return Estimate(float(terms.mean()), float(terms.std() / len(terms) ** 0.5))
