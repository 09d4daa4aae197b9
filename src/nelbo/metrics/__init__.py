"""Measures of a model's quality, with their errors."""

from nelbo.metrics.anomaly import Auroc, FalseAlarmThreshold, ProfileDetector, auroc, false_alarm_threshold
from nelbo.metrics.likelihood import LikelihoodScore, score_likelihood, stderr_of_mean
from nelbo.metrics.pixels import PixelScore, score_pixels
from nelbo.metrics.profile import Profile, score_profile

__all__ = [
    "Auroc",
    "FalseAlarmThreshold",
    "LikelihoodScore",
    "PixelScore",
    "Profile",
    "ProfileDetector",
    "auroc",
    "false_alarm_threshold",
    "score_likelihood",
    "score_pixels",
    "score_profile",
    "stderr_of_mean",
]
