"""Weights for training that are not the bound's: each is a curve w over SNR, on ‖x_0 − x̂_0‖².

    L_w = E_t[w_t ‖x_0 − x̂_0‖²] = E_t[w_t/SNR_t ‖ε − ε̂‖²] = E_t[w_t/(SNR_t + 1) ‖v − v̂‖²],   t uniform on 1 … T

The second and third follow from ε − ε̂ = −√SNR (x_0 − x̂_0) and v − v̂ = −√(SNR + 1) (x_0 − x̂_0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.schedules import Schedule


def simple(schedule: Schedule) -> Tensor:
    """w = SNR: L_simple = E‖ε − ε̂‖²  [DDPM (14)]."""
    return schedule.snr


def min_snr(schedule: Schedule) -> Tensor:
    """w = min(SNR, 5): L_simple, but ‖x_0 − x̂_0‖² counts at most 5 where there is little noise (Hang et al. 2023)."""
    return schedule.snr.clamp(max=5.0)


def max_snr(schedule: Schedule) -> Tensor:
    """w = max(SNR, 1): L_simple, but ‖x_0 − x̂_0‖² counts at least 1 where there is much noise (Salimans & Ho 2022)."""
    return schedule.snr.clamp(min=1.0)


def sigmoid(schedule: Schedule) -> Tensor:
    """w = ½ SNR · sigmoid(2 − ln SNR) · T ln(SNR_{t−1}/SNR_t) (Kingma & Gao 2023, sigmoid weighting with k = 2).

    Theirs is an integral over λ = ln SNR, ½ ∫ sigmoid(k − λ) ‖ε − ε̂‖² dλ, whatever the schedule: T times the step of λ
    makes it a mean over t. λ_0 is infinite, so t = 1 counts with the step from 1 to 2.
    """
    log_snr = schedule.snr.log()
    step = torch.zeros_like(log_snr)
    step[2:] = log_snr[1:-1] - log_snr[2:]
    step[1] = step[min(2, schedule.T)] if schedule.T > 1 else 1.0
    return 0.5 * schedule.snr * torch.sigmoid(2.0 - log_snr) * schedule.T * step


WEIGHTS: dict[str, Callable[[Schedule], Tensor]] = {
    "simple": simple,
    "min_snr": min_snr,
    "max_snr": max_snr,
    "sigmoid": sigmoid,
}
"""w_t as a table over t, float64, shape (T + 1,), read for t ≥ 1 only."""
