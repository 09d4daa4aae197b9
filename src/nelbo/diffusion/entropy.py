"""The entropy form: entropies instead of a decoder (Sohl-Dickstein et al. 2015, appendix B).

    K = Σ_{t=2}^T E KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t))        diffusion, as in the denoising form
      + H_q(X_1|X_0)                                                edge, instead of the reconstruction
      + H_p(X_T) − H_q(X_T|X_0)                                     prior

K is not a bound. The bound is K + Δ with

    Δ = reconstruction − H_q(X_1|X_0) + E CE(q(x_T|x_0), p) − H_p(X_T)

Averaged over data, Δ = 0 if p_θ(x_0|x_1) = N(√α_1 x_1, β_1 I) and E‖x_0‖² = D. With a decoder over levels, Δ includes
the log-volume of a pixel's bin, because the reconstruction is a probability's and H_q(X_1|X_0) a density's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.diffusion.process import noise_var
from nelbo.theory.normal import entropy_normal


def entropy_terms(gammas: Tensor, x_0: Tensor) -> dict[str, Tensor]:
    """edge = H_q(X_1|X_0) and prior = H_p(X_T) − H_q(X_T|X_0), in nats, float64, shape (B,); equal for all x_0.

    Args:
        gammas: −∞, γ_1, …, γ_T.
        x_0: clean examples, shape (B, …).
    """
    var, dims = noise_var(gammas), x_0[0].numel()
    every = torch.full((len(x_0),), float(dims), dtype=torch.float64, device=x_0.device)
    prior = entropy_normal(torch.ones_like(var[-1])) - entropy_normal(var[-1])
    return {"edge": every * float(entropy_normal(var[1])), "prior": every * float(prior)}


def entropy_difference(gammas: Tensor, x_0: Tensor, reconstruction: Tensor) -> Tensor:
    """Δ, the bound minus the entropy form, in nats, float64, shape (B,).

    The last part of Δ is CE(q(x_T|x_0), N(0, I)) − H_p(X_T) = ½ ᾱ_T (‖x_0‖² − D).

    Args:
        gammas: −∞, γ_1, …, γ_T.
        x_0: clean examples, shape (B, …).
        reconstruction: −ln p_θ(x_0|x_1) of each, in nats, shape (B,).
    """
    at_end = 0.5 * float(torch.sigmoid(-gammas[-1])) * (x_0.double().square() - 1.0).flatten(1).sum(1)
    return reconstruction.double() - entropy_terms(gammas, x_0)["edge"] + at_end
