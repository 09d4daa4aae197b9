"""Gaussian diffusion: the forward process, its posterior, and what a network may predict of it."""

from nelbo.diffusion.parameterizations import (
    PARAMETERIZATIONS,
    X0,
    Denoised,
    Denoiser,
    Epsilon,
    Mean,
    Parameterization,
    Velocity,
)
from nelbo.diffusion.process import Gaussian, Process, along

__all__ = [
    "PARAMETERIZATIONS",
    "X0",
    "Denoised",
    "Denoiser",
    "Epsilon",
    "Gaussian",
    "Mean",
    "Parameterization",
    "Process",
    "Velocity",
    "along",
]
