"""The importance-weighted bound (Burda et al. 2016): k samples of all latents inside one logarithm.

    −ln p(x) ≤ −E ln (1/k) Σ_j p(x, z_j)/q(z_j|x)                                              [(8)]

At k = 1 this is the negative ELBO. Its expectation decreases with k, towards −ln p(x).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def importance_weighted(costs: Tensor) -> Tensor:
    """−ln (1/k) Σ_j exp(−cost_j)  [Burda et al. 2016 (8)].

    Args:
        costs: −ln p(x, z_j)/q(z_j|x), in nats, shape (k, B).

    Returns:
        Nats, shape (B,).
    """
    return math.log(len(costs)) - torch.logsumexp(-costs, 0)
