"""The probability-flow ODE and its likelihood (Song et al. 2021, section 4.3 and appendix D), with γ = −ln SNR as time.

The SDE with q(z_γ|x) = N(√ᾱ x, (1 − ᾱ) I), ᾱ = sigmoid(−γ), has drift f z and diffusion g² with

    f = d ln √ᾱ/dγ = −½ (1 − ᾱ),    g² = d(1 − ᾱ)/dγ − 2 f (1 − ᾱ) = 1 − ᾱ

and its flow dz/dγ = f z − ½ g² ∇ln p has the same marginals. With ∇ln p = −ε̂/√(1 − ᾱ) and z = √ᾱ x̂_0 + √(1 − ᾱ) ε̂,

    dz/dγ = ½ √ᾱ √(1 − ᾱ) v̂,    v̂ = √ᾱ ε̂ − √(1 − ᾱ) x̂_0
    ln p(z at γ_min) = ln p(z at γ_max) + ∫_{γ_min}^{γ_max} div(dz/dγ) dγ    along the path

For any denoiser this is the density of the flow, which differs from the diffusion model with the same denoiser. The
two are equal only if the denoiser is exact. Otherwise either can have the higher likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, Denoiser
from nelbo.diffusion.process import diffuse, rates
from nelbo.theory.hierarchy import Decoder
from nelbo.theory.normal import Gaussian

FIRST_STEP = 0.01
"""The solver's first step, as a fraction of γ_max − γ_min. A step chosen by the solver can leave this interval."""
MOST_STEPS = 2000
"""The solver's limit of steps; a smooth path needs some tens."""

State = tuple[Tensor, ...]
Field = Callable[[Tensor], Tensor]
"""z, shape (B, …) → a vector of z's shape; each example's vector depends only on that example."""


class Divergence(Protocol):
    """Computes a vector field f and its divergence ∇·f at z."""

    def __call__(self, field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z), shape (B, …), and ∇·f(z), shape (B,), both without gradient, from one evaluation of f."""


class ExactDivergence:
    """∇·f = Σ_i ∂f_i/∂z_i, by one backward pass for each of the D dimensions; for small D."""

    def __call__(self, field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = field(z)
            sums = value.flatten(1).sum(0).unbind()
        rows = [torch.autograd.grad(part, z, retain_graph=True)[0].flatten(1)[:, i] for i, part in enumerate(sums)]
        return value.detach(), torch.stack(rows).sum(0)


@dataclass(frozen=True)
class HutchinsonDivergence:
    """∇·f ≈ ηᵀ (∂f/∂z) η, by one backward pass: unbiased, with variance Σ_{i<j} (J_ij + J_ji)² (Hutchinson 1989).

    The same η is used along the whole path, so that the flow stays an ODE and its integral is unbiased.

    Args:
        probe: η, independent signs ±1 for each example, shape (B, …) of z; see :func:`signs`.
    """

    probe: Tensor

    def __call__(self, field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = field(z)
        probe = self.probe.to(value)
        (row,) = torch.autograd.grad(value, z, probe)
        return value.detach(), (row * probe).flatten(1).sum(1)


def signs(u: Tensor) -> Tensor:
    """Rademacher numbers, −1 or 1 with probability ½ each, from uniforms in [0, 1) of any shape."""
    return torch.where(u < 0.5, -1.0, 1.0).to(u.dtype)


def velocity(denoised: Denoised, gamma: Tensor) -> Tensor:
    """dz/dγ = ½ √ᾱ √(1 − ᾱ) (√ᾱ ε̂ − √(1 − ᾱ) x̂_0), float64  [Song et al. 2021 (13), in γ].

    Args:
        denoised: x̂_0 and ε̂ of z at γ, shape (B, …).
        gamma: γ, shape (B,).
    """
    x_0, eps = denoised.x_0.double(), denoised.eps.double()
    signal, noise = rates(gamma, eps)
    return 0.5 * signal * noise * (signal * eps - noise * x_0)


def log_density(law: Gaussian, z: Tensor) -> Tensor:
    """ln N(z; μ, σ²) of each example, in nats, shape (B,) for z of shape (B, …)."""
    return law.log_prob(z).flatten(1).sum(1)


def standard_normal(z: Tensor) -> Tensor:
    """ln N(z; 0, I) of each example, in nats, shape (B,) for z of shape (B, …)."""
    return log_density(Gaussian(torch.zeros_like(z), torch.ones_like(z)), z)


def worst_example(parts: State) -> Tensor:
    """max over examples and parts of the root mean square of one example's part; each part has shape (B, …)."""
    return torch.stack([part.flatten(1).square().mean(1).sqrt().amax() for part in parts]).amax()


class Density(NamedTuple):
    """The flow's density at z.

    Attributes:
        log_prob: ln p(z at γ_min) of each example, in nats, float64, shape (B,).
        latent: z at γ_max, float64, shape (B, …).
        evaluations: the number of denoiser evaluations for the whole batch.
    """

    log_prob: Tensor
    latent: Tensor
    evaluations: int


@dataclass(frozen=True)
class ProbabilityFlow:
    """The model defined by a denoiser's ODE and a distribution at γ_max.

    The state is float64. dopri5 chooses its steps so that the local error of *every* example is within tolerance: the
    norm is the maximum over examples of the RMS of z and of ln p in nats per dimension. The other examples of a batch
    therefore change an example's result only within the tolerance. (The solver's default norm is a mean over the batch,
    in which many easy examples hide a hard one.)

    Args:
        denoiser: (z of shape (B, …) in float64, γ of shape (B,) in float64) → x̂_0 and ε̂, differentiable in z, with each
            example independent of the others. A float32 network must cast z.
        gamma_min, gamma_max: the ends of the path, γ_min < γ_max; the denoiser is only evaluated between them.
        terminal: z at γ_max → ln p(z) in nats, shape (B,).
        rtol, atol: the solver's local tolerances, relative and absolute, for z and for nats per dimension.
    """

    denoiser: Denoiser
    gamma_min: float
    gamma_max: float
    terminal: Callable[[Tensor], Tensor] = standard_normal
    rtol: float = 1e-5
    atol: float = 1e-5

    def first_gamma(self, x: Tensor) -> Tensor:
        """γ_min for each example of x, float64, shape (B,)."""
        return torch.full((len(x),), self.gamma_min, dtype=torch.float64, device=x.device)

    def field(self, gamma: Tensor) -> Field:
        """z ↦ dz/dγ at one γ, a scalar."""

        def at(z: Tensor) -> Tensor:
            each = gamma.expand(len(z))
            return velocity(self.denoiser(z, each), each)

        return at

    @torch.no_grad()
    def log_prob(self, z: Tensor, divergence: Divergence) -> Density:
        """ln p(z at γ_min) = ln p(z at γ_max) + ∫ div(dz/dγ) dγ  [Song et al. 2021, D.2], without gradient.

        Args:
            z: at γ_min, shape (B, …).
            divergence: exact, or an unbiased estimate with a probe of z's shape, which makes the result unbiased too.
        """
        dims = z[0].numel()

        def derivative(gamma: Tensor, state: State) -> State:
            value, trace = divergence(self.field(gamma), state[0])
            return value, trace[:, None] / dims

        start = z.double()
        (latent, gain), evaluations = self.solve(derivative, (start, start.new_zeros(len(z), 1)), down=False)
        return Density(self.terminal(latent) + dims * gain[:, 0], latent, evaluations)

    @torch.no_grad()
    def sample(self, latent: Tensor) -> Tensor:
        """z at γ_min, float64, from z at γ_max, shape (B, …): a sample of the flow from a sample of ``terminal``."""
        (z,), _ = self.solve(lambda gamma, state: (self.field(gamma)(state[0]),), (latent.double(),), down=True)
        return z

    def solve(self, derivative: Callable[[Tensor, State], State], start: State, down: bool) -> tuple[State, int]:
        """The state at the other end of the path (from γ_max if ``down``), and the number of derivatives.

        Raises:
            ArithmeticError: the path is not finite, or needs too many steps.
        """
        from torchdiffeq import odeint  # a slow import, 0.3 s

        ends = torch.tensor([self.gamma_min, self.gamma_max], dtype=torch.float64, device=start[0].device)
        ends = ends.flip(0) if down else ends
        count = 0

        def counted(gamma: Tensor, state: State) -> State:
            nonlocal count
            count += 1
            return derivative(gamma, state)

        options = {
            "norm": worst_example,
            "first_step": FIRST_STEP * (self.gamma_max - self.gamma_min),
            "step_t": ends[1:],  # end exactly there: by default the solver steps past the end and interpolates
            "max_num_steps": MOST_STEPS,
        }
        try:
            path = odeint(counted, start, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError as fault:  # the solver reports failure by assertions
            raise ArithmeticError(f"the flow cannot be solved at tolerance {self.rtol:g}: {fault}") from fault
        return tuple(part[-1] for part in path), count


class Estimate(NamedTuple):
    """An estimate of −ln P(x) over integer levels under the flow: the sum of its terms, in nats, float64, shape (B,).

    Its expectation is at least the flow's −ln P(x). It is not a bound of the diffusion model's −ln P(x).
    """

    terms: dict[str, Tensor]
    evaluations: int


def uniform_dequantised(flow: ProbabilityFlow, x_0: Tensor, levels: int, u: Tensor, divergence: Divergence) -> Estimate:
    """−ln P(x) of the flow by uniform dequantisation (Theis et al. 2016): an estimate for the diffusion model.

    L levels on [−1, 1] have the spacing Δ = 2/(L − 1), and P(x) is p integrated over the cube of side Δ around x_0.
    With z = √ᾱ_min (x_0 + Δ (u − ½)), a map from the unit cube with Jacobian (√ᾱ_min Δ)^D,

        −ln P(x) ≤ E_u[−ln p(z)] − D ln(√ᾱ_min Δ)

    The first term is ``flow``, the second ``dequantisation``. The outermost cubes end half a level beyond ±1, so P sums
    to 1 minus the flow's mass outside.

    Args:
        flow: the flow, whose γ_min is the noise level of z.
        x_0: on the grid of levels in [−1, 1], shape (B, …).
        levels: L.
        u: uniform in [0, 1), of x_0's shape.
        divergence: exact, or with a probe of x_0's shape.
    """
    step, dims = 2.0 / (levels - 1), x_0[0].numel()
    x_0 = x_0.double()
    signal, _ = rates(flow.first_gamma(x_0), x_0)
    density = flow.log_prob(signal * (x_0 + step * (u.double() - 0.5)), divergence)
    log_volume = dims * (signal.flatten().log() + math.log(step))
    return Estimate({"flow": -density.log_prob, "dequantisation": -log_volume}, density.evaluations)


@torch.no_grad()
def noise_dequantised(
    flow: ProbabilityFlow, x_0: Tensor, eps: Tensor, divergence: Divergence, decoder: Decoder
) -> Estimate:
    """−ln P(x) of the flow with a decoder, where the diffusion's first noise dequantises; an estimate as above.

    With z = √ᾱ_min x_0 + √(1 − ᾱ_min) ε, a sample of q(z|x), and P(x) = ∫ p(z) p(x|z) dz,

        −ln P(x) ≤ E_q[−ln p(z) + ln q(z|x) − ln p(x|z)]

    The terms are ``flow``, ``dequantisation`` and ``reconstruction``. ln q(z|x) is evaluated at the same z instead of
    its mean −(D/2) ln(2πe (1 − ᾱ_min)), to reduce the variance: for an exact denoiser and decoder, Bayes' rule gives
    p(x|z) = P(x) q(z|x)/p(z), and the sum is −ln P(x) at *every* z. The mean would leave ½ ‖ε‖², with variance D/2.

    Args:
        flow: the flow, whose γ_min is the noise level of z.
        x_0: on the grid of levels in [−1, 1], shape (B, …).
        eps: ε, standard normal, of x_0's shape.
        divergence: exact, or with a probe of x_0's shape.
        decoder: z at γ_min, float64 → −ln p(x|z) in nats, shape (B,).
    """
    x_0, gamma = x_0.double(), flow.first_gamma(x_0)
    signal, noise = rates(gamma, x_0)
    z = diffuse(x_0, gamma, eps.double())
    density = flow.log_prob(z, divergence)
    terms = {
        "flow": -density.log_prob,
        "dequantisation": log_density(Gaussian(signal * x_0, noise.square()), z),
        "reconstruction": decoder(z).double(),
    }
    return Estimate(terms, density.evaluations)
