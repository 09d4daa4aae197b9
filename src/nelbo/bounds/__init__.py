"""The negative ELBO, term by term, and how to estimate it with an error that can be trusted."""

from nelbo.bounds.denoising import REVERSE_VARIANCES, denoising_weight, diffusion_term, prior_term
from nelbo.bounds.terms import Bound
from nelbo.bounds.timesteps import LossProfile, harmonic, stratified

__all__ = [
    "REVERSE_VARIANCES",
    "Bound",
    "LossProfile",
    "denoising_weight",
    "diffusion_term",
    "harmonic",
    "prior_term",
    "stratified",
]
