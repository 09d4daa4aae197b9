"""Measures of a model's quality, with their errors."""

from nelbo.metrics.anomaly import Auroc, ProfileDetector, auroc
from nelbo.metrics.likelihood import LikelihoodScore, score_likelihood, stderr_of_mean
from nelbo.metrics.profile import Profile, score_profile

__all__ = [
    "Auroc",
    "LikelihoodScore",
    "Profile",
    "ProfileDetector",
    "auroc",
    "score_likelihood",
    "score_profile",
    "stderr_of_mean",
]
