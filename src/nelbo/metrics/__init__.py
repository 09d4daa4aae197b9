"""Measures of a model on data."""

from nelbo.metrics.likelihood import LikelihoodScore, score_likelihood

__all__ = ["LikelihoodScore", "score_likelihood"]
