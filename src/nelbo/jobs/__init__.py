"""What nelbo does for a user: train, sample, score, describe. The command line and Python call the same functions."""

from nelbo.jobs.compare import compare
from nelbo.jobs.describe import describe
from nelbo.jobs.run import Run, load
from nelbo.jobs.sample import draw, sample
from nelbo.jobs.score import score
from nelbo.jobs.train import train

__all__ = ["Run", "compare", "describe", "draw", "load", "sample", "score", "train"]
