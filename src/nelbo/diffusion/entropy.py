"""The entropy form: no decoder, but entropies in its place (Sohl-Dickstein et al. 2015, appendix B).

    K = Σ_{t=2}^T E KL(q(x_{t−1}|x_t,x_0) ‖ p_θ(x_{t−1}|x_t))        diffusion, as in the denoising form
      + H_q(X_1|X_0)                                                edge, where the reconstruction stood
      + H_p(X_T) − H_q(X_T|X_0)                                     prior

It is not a bound by itself. The bound is K + Δ with

    Δ = reconstruction − H_q(X_1|X_0) + E CE(q(x_T|x_0), p) − H_p(X_T)

Δ = 0, averaged over data, where p_θ(x_0|x_1) = N(√α_1 x_1, β_1 I) and E‖x_0‖² = D. With a decoder over levels, Δ also
holds the volume of a pixel's bin: the reconstruction is of a probability, H_q(X_1|X_0) of a density.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.diffusion.process import noise_var
from nelbo.theory.normal import entropy_normal


def entropy_terms(gammas: Tensor, x_0: Tensor) -> dict[str, Tensor]:
    """edge = H_q(X_1|X_0) and prior = H_p(X_T) − H_q(X_T|X_0), in nats, float64, shape (B,); the same for every x_0.

    Args:
        gammas: −∞, γ_1, …, γ_T.
        x_0: clean examples, shape (B, …).
    """
    var, dims = noise_var(gammas), x_0[0].numel()
    every = torch.full((len(x_0),), float(dims), dtype=torch.float64, device=x_0.device)
    prior = entropy_normal(torch.ones_like(var[-1])) - entropy_normal(var[-1])
    return {"edge": every * float(entropy_normal(var[1])), "prior": every * float(prior)}


def entropy_difference(gammas: Tensor, x_0: Tensor, reconstruction: Tensor) -> Tensor:
    """Δ, what the entropy form lacks of the bound, in nats, float64, shape (B,).

    The end's part is CE(q(x_T|x_0), N(0, I)) − H_p(X_T) = ½ ᾱ_T (‖x_0‖² − D).

    Args:
        gammas: −∞, γ_1, …, γ_T.
        x_0: clean examples, shape (B, …).
        reconstruction: −ln p_θ(x_0|x_1) of each, shape (B,).
    """
    at_end = 0.5 * float(torch.sigmoid(-gammas[-1])) * (x_0.double().square() - 1.0).flatten(1).sum(1)
    return reconstruction.double() - entropy_terms(gammas, x_0)["edge"] + at_end
