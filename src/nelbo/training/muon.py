"""Muon (Jordan et al. 2024): an optimiser whose step changes all singular directions of a matrix equally.

Written by hand because torch.optim.Muon does not support convolutions or sharded matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nelbo.training.shards import distribute_like, gather, to_local

SMALLEST = 8
"""The smallest side of a matrix that Muon trains."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b and c of the iteration X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X; singular values approach 1, not exactly."""
ITERATIONS = 5
LIKE_ADAMW = 0.2
"""Root mean square of a step at learning rate 1, about that of AdamW, so that both can use the same rates."""


def is_matrix(p: Tensor) -> bool:
    """Whether Muon trains it: a matrix, or a convolution's weights with C_out rows of C_in · k · k."""
    return p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) >= SMALLEST


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U Vᵀ of each M = U S Vᵀ, by five Newton–Schulz steps; its singular values are between 0.6 and 1.3.

    Args:
        matrices: M, shape (N, n, m).
        dtype: the dtype of the products; bfloat16 is precise enough.

    Returns:
        Shape (N, n, m), of the dtype of M. A zero matrix stays zero.
    """
    a, b, c = QUINTIC
    X = (matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)).to(dtype)
    tall = X.shape[1] > X.shape[2]
    X = X.mT if tall else X
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return (X.mT if tall else X).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """W ← (1 − η λ) W − 0.2 η √max(n, m) · O, O ≈ U Vᵀ of the momentum's U S Vᵀ  [Liu et al. 2025, section 2.2].

    The momentum is M ← μ M + (1 − μ) G, and O is that of Nesterov's μ M + (1 − μ) G. The root mean square of O is
    1/√max(n, m), so that of a step is 0.2 η for any shape. Matrices of the same shape are processed together.

    Args:
        groups: groups of parameters that satisfy :func:`is_matrix`, each with lr, weight_decay and momentum.
        dtype: the dtype of the orthogonalisation.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": 0.95})
        self.dtype = dtype
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for weights in alike.values():
                self.turn(weights, group)

    def turn(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Take one step with parameters of one shape."""
        lr, momentum = group["lr"], group["momentum"]
        gradients = [p.grad for p in weights if p.grad is not None]
        moments = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_([to_local(m) for m in moments], [to_local(g) for g in gradients], 1 - momentum)
        ahead = torch._foreach_lerp(gradients, moments, momentum)
        stacked = torch.stack([as_it_lies(gather(part)) for part in ahead])
        rows, columns = len(stacked[0]), stacked[0].numel() // len(stacked[0])
        steps = orthogonalised(stacked.flatten(2) if stacked.ndim > 3 else stacked, self.dtype).reshape(stacked.shape)
        torch._foreach_mul_([to_local(p) for p in weights], 1 - lr * group["weight_decay"])
        scale = LIKE_ADAMW * max(rows, columns) ** 0.5
        shaped = (step.movedim(-1, 1) if step.ndim > 2 else step for step in steps)
        turned = [distribute_like(step, p) for step, p in zip(shaped, weights, strict=True)]
        torch._foreach_add_([to_local(p) for p in weights], [to_local(step) for step in turned], alpha=-lr * scale)


def as_it_lies(weights: Tensor) -> Tensor:
    """The weights of a convolution with the channels last, as in memory; other weights unchanged."""
    return weights.movedim(1, -1) if weights.ndim > 2 else weights
