"""The negative ELBO, term by term, and how to estimate it with an error that can be trusted."""

from nelbo.bounds.consistency import consistency_log_ratio, consistency_prior_term, consistency_term, neighbours
from nelbo.bounds.denoising import (
    REVERSE_VARIANCES,
    Reverse,
    denoising_weight,
    diffusion_term,
    prior_term,
)
from nelbo.bounds.entropy import entropy_difference, entropy_terms
from nelbo.bounds.hierarchy import Climb, Decoder, Descent, bottom_up_terms, climb, descend, top_down_terms
from nelbo.bounds.importance import importance_weighted
from nelbo.bounds.rare import RARE, RARE_DRAWS, crossing, shifted
from nelbo.bounds.terms import SOLVER, Bound
from nelbo.bounds.timesteps import LossProfile, harmonic, stratified
from nelbo.bounds.trajectory import trajectory_terms
from nelbo.bounds.variances import VARIANCES, FixedVariance, LearnedVariance, ReverseVariance
from nelbo.bounds.weights import WEIGHTS

__all__ = [
    "RARE",
    "RARE_DRAWS",
    "REVERSE_VARIANCES",
    "SOLVER",
    "VARIANCES",
    "WEIGHTS",
    "Bound",
    "Climb",
    "Decoder",
    "Descent",
    "FixedVariance",
    "LearnedVariance",
    "LossProfile",
    "Reverse",
    "ReverseVariance",
    "bottom_up_terms",
    "climb",
    "consistency_log_ratio",
    "consistency_prior_term",
    "consistency_term",
    "crossing",
    "denoising_weight",
    "descend",
    "diffusion_term",
    "entropy_difference",
    "entropy_terms",
    "harmonic",
    "importance_weighted",
    "neighbours",
    "prior_term",
    "shifted",
    "stratified",
    "top_down_terms",
    "trajectory_terms",
]
