"""Methods to draw x_0 from about p(x_0 | A x_0 = y) with a denoiser of p(x_0): one contract, and one list.

By Tweedie's formula, the denoiser of the conditional law is

    E[x_0 | z, y] = x̂_0(z) + (1 − ᾱ)/√ᾱ ∇_z ln p(y | z)

and p(y|z) = ∫ p(x_0|z) p(y|x_0) dx_0 is unknown. Methods differ in what they use for it. With y seen without error,
A⁺y − P x̂_0 is the miss of the present prediction, and J = ∂x̂_0/∂z:

| method | p(x_0 given z) is taken as | E[x_0 given z, y] |
| guidance (ΠGDM) | N(x̂_0, r² I) | x̂_0 + (1 − ᾱ)/(√ᾱ r²) Jᵀ(A⁺y − P x̂_0) |
| moments | N(x̂_0, V), V = (1 − ᾱ)/√ᾱ Jᵀ | x̂_0 + V P (P V P)⁺ (A⁺y − P x̂_0) |

Replacement uses no p(y|z): it noises what is seen, and puts it into z. :mod:`nelbo.editing.particles` corrects guidance
by weights, and is exact in the limit of many particles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, Denoiser, clipped, from_x_0
from nelbo.diffusion.process import CLEAN, marginal, noise_var, per_image, signal_rate, transition
from nelbo.diffusion.samplers import DDIM, DPMSolver, Sampler, State, trajectory
from nelbo.editing.constraints import Seen
from nelbo.errors import InputError
from nelbo.rng import Draws, Stream

Numbers = Callable[[int], Draws]
"""The number of a draw (0, 1, …) → the random numbers of all images."""


class Method(ABC):
    """A rule that draws x_0 given A x_0 = y.

    Attributes:
        caveat: how its law differs from p(x_0 | A x_0 = y), as the end of a sentence.
        particles: the number of z that are evaluated together for one image.
    """

    caveat: str
    particles: int = 1

    @abstractmethod
    def draw(self, denoiser: Denoiser, seen: Seen, gammas: Tensor, numbers: Numbers, clip: bool) -> Iterator[State]:
        """Step from noise to images that fulfil A x = y, and yield the state after every step.

        Args:
            denoiser: (z, γ) → x̂_0 and ε̂, differentiable in z, each example independent of the others. With a
                condition, it is the denoiser of p(x_0 | condition).
            seen: A and y of each image, in [−1, 1], shape (B, C, H, W).
            gammas: γ_1 > γ_2 > … > −∞, float64, shape (K + 1,).
            numbers: the random numbers of each image.
            clip: whether to clamp x̂_0 to [−1, 1].

        Yields:
            The state after each step; z of the last one is x_0, with A x_0 = y up to rounding.
        """

    @abstractmethod
    def evaluations(self, steps: int) -> int:
        """Network evaluations of an image in this number of steps; a product with Jᵀ counts as one."""


def normal_like(known: Tensor, numbers: Numbers, number: int, count: int | None = None) -> Tensor:
    """Standard normal noise of a draw, of the shape (B, …) of ``known``, or (B, count, …)."""
    shape = (*known.shape[1:],) if count is None else (count, *known.shape[1:])
    return numbers(number).normal(Stream.EDIT, shape, known.dtype)


def at_gamma(gamma: float, like: Tensor) -> Tensor:
    """One γ for every example, float64, shape (B,)."""
    return torch.full((len(like),), gamma, dtype=torch.float64, device=like.device)


class Replacement(Method):
    """RePaint: what is seen, with noise, replaces its part of z at every step (Lugmayr et al. 2022, algorithm 1).

    z_s = P z_s^seen + (1 − P) z_s^drawn,   z_s^seen ~ N(√ᾱ_s A⁺y, (1 − ᾱ_s) I),   z_s^drawn ~ p(z_s|z_t)

    Each step is repeated: z_t ~ q(z_t|z_s) and again z_s, so that the two parts agree better.

    Args:
        resamplings: U ≥ 1, how often each step is taken; the last step, to the image, is taken once.

    Raises:
        InputError: U < 1.
    """

    caveat = "biased: the noise of what is seen does not depend on the rest; less with more resamplings"

    def __init__(self, resamplings: int = 10) -> None:
        self.resamplings = at_least_one("resamplings", resamplings)

    def draw(self, denoiser: Denoiser, seen: Seen, gammas: Tensor, numbers: Numbers, clip: bool) -> Iterator[State]:
        z, number, rule = normal_like(seen.known, numbers, 0), 0, DDIM(1.0)
        for now, then in pairwise(gammas.tolist()):
            gamma_t, gamma_s = at_gamma(now, z), at_gamma(then, z)
            for left in reversed(range(self.resamplings if then > CLEAN else 1)):
                denoised = denoiser(z, gamma_t)
                denoised = clipped(denoised, z, gamma_t) if clip else denoised
                drawn, given, again = (normal_like(seen.known, numbers, number + k) for k in (1, 2, 3))
                number += 3
                z_s = rule.step(z, denoised, gamma_t, gamma_s).sample(drawn)
                z_s = z_s + seen.constraint.project(marginal(seen.known, gamma_s).sample(given) - z_s)
                z = transition(z_s, gamma_s, gamma_t).sample(again) if left else z_s
            yield State(then, z, denoised)

    def evaluations(self, steps: int) -> int:
        return 1 + (steps - 1) * self.resamplings


class Guided(NamedTuple):
    """The results of a denoiser and of its conditional version at one z, and ln p(y|z) up to a constant, shape (B,)."""

    free: Denoised
    guided: Denoised
    log_twist: Tensor


RULES: dict[str, Sampler] = {"ddim": DDIM(1.0), "dpm++": DPMSolver()}
"""The samplers of guided methods: with noise, and of second order without noise."""


class GuidedMethod(Method):
    """A method that replaces x̂_0 by an approximation of E[x_0 | z, y], for a sampler.

    Args:
        sampler: ``ddim`` (η = 1), whose noise corrects earlier errors, those of a network too, or ``dpm++``,
            deterministic and of second order, which is better with an exact denoiser and few steps.

    Raises:
        InputError: the sampler is unknown.
    """

    def __init__(self, sampler: str) -> None:
        if sampler not in RULES:
            raise InputError("sampler", f"{sampler!r} is not one of {', '.join(RULES)}")
        self.sampler = sampler

    @abstractmethod
    def guide(self, denoiser: Denoiser, seen: Seen, z: Tensor, gamma: Tensor) -> Guided:
        """Both predictions at z, of shape (B, …), and ln p(y|z), for γ of shape (B,)."""

    def conditional(self, denoiser: Denoiser, seen: Seen) -> Denoiser:
        """The denoiser given A x_0 = y, for any sampler."""
        return lambda z, gamma: self.guide(denoiser, seen, z, gamma).guided

    def draw(self, denoiser: Denoiser, seen: Seen, gammas: Tensor, numbers: Numbers, clip: bool) -> Iterator[State]:
        def noise(number: int) -> Tensor:
            return normal_like(seen.known, numbers, number)

        walk = trajectory(
            RULES[self.sampler], self.conditional(denoiser, seen), noise(0), gammas, lambda k: noise(k + 1), clip
        )
        for state in walk:
            yield state if state.gamma > CLEAN else state._replace(z=seen.fulfilled(state.z))


def gain(gamma: Tensor, like: Tensor) -> Tensor:
    """(1 − ᾱ)/√ᾱ, the factor of Tweedie's formula, of a shape to multiply ``like``."""
    return per_image(noise_var(gamma) / signal_rate(gamma), like)


class PseudoinverseGuidance(GuidedMethod):
    """ΠGDM: p(x_0|z) as N(x̂_0, r² I) (Song et al. 2023, "Pseudoinverse-guided diffusion models", (7), (8)).

    r² = v (1 − ᾱ)/(ᾱ v + 1 − ᾱ), exact for images with independent pixels of variance v:

        E[x_0 | z, y] ≈ x̂_0 + (ᾱ v + 1 − ᾱ)/(√ᾱ v) Jᵀ(A⁺y − P x̂_0)

    The paper's v is 1. Its algorithm scales the gradient by hand; here the factor is Tweedie's.

    Args:
        variance: v > 0, on the scale where pixels fill [−1, 1].
        sampler: as in :class:`GuidedMethod`.

    Raises:
        InputError: v ≤ 0, or the sampler is unknown.
    """

    caveat = "biased: the prediction's errors are taken as independent between pixels"

    def __init__(self, variance: float = 1.0, sampler: str = "ddim") -> None:
        super().__init__(sampler)
        if not variance > 0:
            raise InputError("variance", f"{variance} is not above 0")
        self.variance = variance

    def spread(self, gamma: Tensor) -> Tensor:
        """r², float64, shape (B,)."""
        signal, noise = signal_rate(gamma).square(), noise_var(gamma)
        return self.variance * noise / (self.variance * signal + noise)

    def guide(self, denoiser: Denoiser, seen: Seen, z: Tensor, gamma: Tensor) -> Guided:
        """Both predictions at z, and ln p(y|z) = −‖A⁺y − P x̂_0‖²/(2 r²), from one evaluation and one product."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            free = denoiser(z, gamma)
        missing, spread = seen.missing(free.x_0.detach()), self.spread(gamma)
        (pull,) = torch.autograd.grad(free.x_0, z, missing)
        z, x_0 = z.detach(), free.x_0.detach()
        x_0_given = x_0 + gain(gamma, z) / per_image(spread, z) * pull
        log_twist = -0.5 * missing.double().square().flatten(1).sum(1) / spread
        return Guided(Denoised(x_0, free.eps.detach()), from_x_0(x_0_given, z, gamma), log_twist)

    def evaluations(self, steps: int) -> int:
        return 2 * steps


class MomentMatching(GuidedMethod):
    """p(x_0|z) as N(x̂_0, V) with its own covariance V = (1 − ᾱ)/√ᾱ Jᵀ (Rozet et al. 2024, section 3).

    Conjugate residuals solve P V P u = A⁺y − P x̂_0, and E[x_0 | z, y] ≈ x̂_0 + V u. The law is exact for Gaussian data
    with an exact denoiser, in as many iterations as V has different eigenvalues on what is seen. After few iterations,
    the equations are solved in the directions in which V is largest.

    Args:
        iterations: of the conjugate residuals, ≥ 1; each is one product with Jᵀ.
        sampler: as in :class:`GuidedMethod`.

    Raises:
        InputError: there is no iteration, or the sampler is unknown.
    """

    caveat = "exact for Gaussian data, and biased where p(x_0|z) is not Gaussian"

    def __init__(self, iterations: int = 3, sampler: str = "ddim") -> None:
        super().__init__(sampler)
        self.iterations = at_least_one("iterations", iterations)

    def guide(self, denoiser: Denoiser, seen: Seen, z: Tensor, gamma: Tensor) -> Guided:
        """Both predictions, and ln p(y|z) = −½ uᵀ(A⁺y − P x̂_0), without ln |P V P|."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            free = denoiser(z, gamma)
        factor, x_0 = gain(gamma, z.detach()), free.x_0.detach()

        def spread(u: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(free.x_0, z, u, retain_graph=True)
            return factor * product

        shift, square = solve(spread, seen, seen.missing(x_0), self.iterations)
        guided = from_x_0(x_0 + shift, z.detach(), gamma)
        return Guided(Denoised(x_0, free.eps.detach()), guided, -0.5 * square.double().flatten())

    def evaluations(self, steps: int) -> int:
        return (1 + self.iterations) * steps


class Solved(NamedTuple):
    """V u, shape (B, …), and uᵀ b, shape (B, 1, …, 1), for the u with P V P u = b."""

    product: Tensor
    square: Tensor


def solve(spread: Callable[[Tensor], Tensor], seen: Seen, missing: Tensor, iterations: int) -> Solved:
    """Solve P V P u = b by generalised conjugate residuals (Eisenstat, Elman & Schultz 1983, algorithm GCR).

    Each iteration adds the direction that makes ‖b − P V P u‖ least. So none makes it larger, also where V is not
    symmetric or not positive, as with the J of a network; conjugate gradients would diverge there. An image stops
    where it is solved to the precision of its numbers.

    Args:
        spread: u ↦ V u.
        seen: gives P.
        missing: b, shape (B, …).
        iterations: the number of products with V.
    """
    residual, total, square = missing, torch.zeros_like(missing), torch.zeros_like(square_sum(missing))
    enough = square_sum(missing) * torch.finfo(missing.dtype).eps ** 2
    earlier: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        direction, product = residual, spread(residual)
        image = seen.constraint.project(product)
        for old_direction, old_product, old_image, old_size in earlier:
            share = ratio(square_sum(image, old_image), old_size)
            direction, product = direction - share * old_direction, product - share * old_product
            image = image - share * old_image
        size = square_sum(image)
        step = torch.where(square_sum(residual) > enough, ratio(square_sum(residual, image), size), 0.0)
        total, square = total + step * product, square + step * square_sum(direction, missing)
        residual = residual - step * image
        earlier.append((direction, product, image, size))
    return Solved(total, square)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is."""
    return torch.where(b > 0, a / b, 0.0)


def square_sum(u: Tensor, v: Tensor | None = None) -> Tensor:
    """u·v of each example, or u·u, of shape (B, 1, …, 1)."""
    total = (u * (u if v is None else v)).flatten(1).sum(1)
    return total.reshape(-1, *[1] * (u.ndim - 1))


def at_least_one(where: str, count: int) -> int:
    """The count, if it is a whole number of at least 1.

    Raises:
        InputError: it is not.
    """
    if not isinstance(count, int) or count < 1:
        raise InputError(where, f"{count!r} is not a whole number of at least 1")
    return count
