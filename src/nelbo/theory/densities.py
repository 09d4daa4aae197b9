"""Divergences between densities: closed forms of torch, and quadrature in one dimension.

KL(q‖p) = ∫ q ln(q/p) dx,   JS(q, p) = ½ ∫ q ln(q/m) + p ln(p/m) dx with m = ½(q + p),   TV(q, p) = ½ ∫ |q − p| dx

A density is given by its logarithm; −∞ means no mass, so a tail that underflows still counts as mass. The integral of
each density is computed with the divergence and must be 1. This check also detects a peak that the quadrature missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence
from torch.distributions.constraints import Constraint

from nelbo.theory.discrete import INFINITE, js_part

LogDensity = Callable[[Tensor], Tensor]
"""x ↦ ln q(x) on float64 tensors of shape (n,); −∞ where q has no mass."""

LINE = (-math.inf, math.inf)
REACH = 2.0**60
"""The real line is integrated from −REACH to REACH."""
MASS_TOLERANCE = 1e-6
"""Allowed error of a density's integral, about the error of a density in float32."""
NODES, WEIGHTS = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(16))


def kl(q: Distribution, p: Distribution) -> Tensor:
    """KL(q‖p) between distributions of torch: the closed form if torch has one, else :func:`kl_density`.

    Args:
        q, p: distributions; without a closed form, densities over one number, without a batch.

    Returns:
        The divergence in nats, of the batch's shape.

    Raises:
        ValueError: the divergence is infinite, or has neither a closed form nor a quadrature.
    """
    try:
        value = kl_divergence(q, p)
    except NotImplementedError:
        value = _kl_by_quadrature(q, p)
    if not bool(value.isfinite().all()):
        raise ValueError(INFINITE)
    return value


def kl_density(
    log_q: LogDensity, log_p: LogDensity, support: tuple[float, float] = LINE, around: Sequence[float] = (0.0,)
) -> Tensor:
    """KL(q‖p) = ∫ q ln(q/p) dx between densities over one number, in nats, to about 1e-10.

    Args:
        log_q, log_p: ln q and ln p; −∞ where there is no mass.
        support: the interval that holds both densities; an end may be infinite.
        around: places x of the mass and of the jumps. A narrow peak that is not listed is refused as missing mass. A
            jump that is not listed can cause an error of 1e-6, the tolerance of the masses.

    Returns:
        The divergence in nats, a float64 scalar.

    Raises:
        ValueError: q or p does not integrate to 1, or the divergence is infinite.
    """

    def integrand(log_q: Tensor, log_p: Tensor) -> Tensor:
        q = log_q.exp()
        if bool(((q > 0) & (log_p == -math.inf)).any()):
            raise ValueError(INFINITE)
        return torch.where(q > 0, q * (log_q - log_p), 0.0)

    return _divergence(integrand, log_q, log_p, support, around)


def js_density(
    log_q: LogDensity, log_p: LogDensity, support: tuple[float, float] = LINE, around: Sequence[float] = (0.0,)
) -> Tensor:
    """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m), m = ½(q + p), between densities over one number, in nats, to about 1e-10.

    Args, returns and raises as :func:`kl_density`; JS is never infinite.
    """

    def integrand(log_q: Tensor, log_p: Tensor) -> Tensor:
        m = 0.5 * (log_q.exp() + log_p.exp())
        return js_part(m, torch.where(m > 0, torch.tanh(0.5 * (log_q - log_p)), 0.0))

    return _divergence(integrand, log_q, log_p, support, around)


def total_variation_density(
    log_q: LogDensity, log_p: LogDensity, support: tuple[float, float] = LINE, around: Sequence[float] = (0.0,)
) -> Tensor:
    """TV(q, p) = max_A |q(A) − p(A)| = ½ ∫ |q − p| dx between densities over one number, to about 1e-10.

    Args, returns and raises as :func:`kl_density`; TV is at most 1.
    """
    return _divergence(lambda log_q, log_p: 0.5 * (log_q.exp() - log_p.exp()).abs(), log_q, log_p, support, around)


def integral(
    f: Callable[[Tensor], Tensor],
    support: tuple[float, float] = LINE,
    around: Sequence[float] = (0.0,),
    tolerance: float = 1e-10,
) -> Tensor:
    """∫ f(x) dx by Gauss–Legendre panels of 16 points; a panel is halved where it disagrees with its halves.

    Written by hand because scipy's ``quad_vec`` evaluates one x at a time, and f takes many.
    The first panels have edges c ± 2^k around each place c and each end, which covers every scale.

    Args:
        f: x of shape (n,), float64 ↦ m integrands, shape (n, m).
        support: the ends; an infinite end is replaced by ±2^60, where the integrand must be negligible.
        around: the places c.
        tolerance: of the sum of the panels' disagreements, absolute for integrals below 1, else relative.

    Returns:
        The integrals, float64, shape (m,).

    Raises:
        ValueError: f is not finite somewhere, or the integral does not converge.
    """
    edges = _ladder(support, around)
    left, right = edges[:-1], edges[1:]
    far = torch.tensor([math.isinf(end) for end in support])
    tails = _panels(f, left[[0, -1]], right[[0, -1]])[far]
    done, settled = torch.zeros_like(tails.sum(0)), bool((tails.abs() <= tolerance).all())
    for _ in range(64 if settled else 0):
        middle = 0.5 * (left + right)
        halves = _panels(f, left, middle) + _panels(f, middle, right)
        error = (halves - _panels(f, left, right)).abs().amax(-1)
        whole = done + halves.sum(0)
        limit = tolerance * max(1.0, float(whole.abs().max()))
        if float(error.sum()) <= limit:
            return whole
        rough = error > limit / (2 * len(error))
        done = done + halves[~rough].sum(0)
        left, right = torch.cat([left[rough], middle[rough]]), torch.cat([middle[rough], right[rough]])
    raise ValueError("the integral does not converge: it is infinite, or its tails are too heavy for quadrature")


def _panels(f: Callable[[Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """∫ f over each panel (left, right) by one Gauss–Legendre rule, shape (panels, m)."""
    half = 0.5 * (right - left)
    x = 0.5 * (left + right)[:, None] + half[:, None] * NODES
    values = f(x.flatten()).double().reshape(*x.shape, -1)
    if not bool(values.isfinite().all()):
        raise ValueError("a density is infinite or not a number somewhere on the support")
    return half[:, None] * (WEIGHTS @ values)


def _ladder(support: tuple[float, float], around: Sequence[float]) -> Tensor:
    """The edges of the first panels: both ends, and c ± 2^k around each place and each finite end."""
    low, high = max(support[0], -REACH), min(support[1], REACH)
    if not low < high:
        raise ValueError(f"({support[0]:g}, {support[1]:g}) is not a support: its ends must be in order")
    steps = 2.0 ** torch.arange(-20, 60, dtype=torch.float64)
    steps = torch.cat([-steps, torch.zeros(1, dtype=torch.float64), steps])
    places = torch.tensor([*around, *(end for end in support if math.isfinite(end))], dtype=torch.float64)
    rungs = (places[:, None] + steps).flatten()
    rungs = rungs[(rungs > low) & (rungs < high) & (rungs.abs() <= 0.5 * REACH)]
    return torch.unique(torch.cat([torch.tensor([low, high], dtype=torch.float64), rungs]))


def _divergence(
    integrand: Callable[[Tensor, Tensor], Tensor],
    log_q: LogDensity,
    log_p: LogDensity,
    support: tuple[float, float],
    around: Sequence[float],
) -> Tensor:
    """∫ integrand(ln q, ln p) dx, after a check that both densities integrate to 1."""

    def columns(x: Tensor) -> Tensor:
        at_q, at_p = log_q(x), log_p(x)
        return torch.stack([at_q.exp(), at_p.exp(), integrand(at_q, at_p)], -1)

    mass_q, mass_p, value = integral(columns, support, around)
    for name, mass in (("q", mass_q), ("p", mass_p)):
        if not abs(float(mass) - 1) <= MASS_TOLERANCE:
            raise ValueError(
                f"{name} integrates to {float(mass):.6g}, not to 1: normalise it, or list its peaks in `around`"
            )
    return value


def _kl_by_quadrature(q: Distribution, p: Distribution) -> Tensor:
    """KL(q‖p) over both supports, around the laws' means, modes and ends."""
    if any(law.batch_shape or law.event_shape or _support(law).is_discrete for law in (q, p)):
        names = f"{type(q).__name__}‖{type(p).__name__}"
        raise ValueError(f"KL({names}) has no closed form and is not over one number: use kl_monte_carlo")
    (low_q, high_q), (low_p, high_p) = _ends(q), _ends(p)
    around = [place for place in (*_ends(q), *_ends(p), *_centres(q), *_centres(p)) if math.isfinite(place)]
    return kl_density(_log_density(q), _log_density(p), (min(low_q, low_p), max(high_q, high_p)), around or [0.0])


def _support(law: Distribution) -> Constraint:
    """The support of a distribution; every distribution with samples has one."""
    support: Constraint | None = law.support
    assert support is not None
    return support


def _ends(law: Distribution) -> tuple[float, float]:
    """The ends of a distribution's support."""
    support = _support(law)
    return float(getattr(support, "lower_bound", -math.inf)), float(getattr(support, "upper_bound", math.inf))


def _centres(law: Distribution) -> list[float]:
    """The mean and the mode of a distribution, if torch has them."""
    found = []
    for name in ("mean", "mode"):
        try:
            found.append(float(getattr(law, name)))
        except NotImplementedError:
            continue
    return found


def _log_density(law: Distribution) -> LogDensity:
    """ln of a distribution's density, and −∞ outside its support, where torch raises an error."""

    def log_density(x: Tensor) -> Tensor:
        inside = _support(law).check(x)  # type: ignore[no-untyped-call]
        values = torch.full_like(x, -math.inf)
        values[inside] = law.log_prob(x[inside]).double()
        return values

    return log_density
