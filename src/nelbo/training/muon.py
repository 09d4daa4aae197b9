"""Muon (Jordan et al. 2024): a step that changes all of a matrix's directions by the same amount.

By hand, as torch.optim.Muon takes matrices alone, no convolutions, and no shares of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nelbo.training.shards import distribute_like, gather, to_local

SMALLEST = 8
"""Matrices with a side below this have too few directions to share a step between."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b and c of the iteration X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X; every singular value ends near 1, not at it."""
ITERATIONS = 5
LIKE_ADAMW = 0.2
"""Root mean square of a step, at a learning rate of 1: about that of AdamW, so that both take the same rates."""


def is_matrix(p: Tensor) -> bool:
    """Whether Muon trains it: a matrix, or a convolution's weights, C_out rows of C_in · k · k."""
    return p.ndim >= 2 and min(p.shape[0], p.numel() // p.shape[0]) >= SMALLEST


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U Vᵀ of each M = U S Vᵀ, by five Newton–Schulz steps: singular values between 0.6 and 1.3.

    Args:
        matrices: M, shape (N, n, m).
        dtype: to multiply in; bfloat16 does.

    Returns:
        Shape (N, n, m), of the type of M. A matrix of zeros stays one.
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

    The momentum is M ← μ M + (1 − μ) G, and O that of the look ahead, μ M + (1 − μ) G, as Nesterov's. O's root mean
    square is 1/√max(n, m), so a step's is 0.2 η, whatever the shape. Matrices of one shape are turned at once.

    Args:
        groups: of parameters for which :func:`is_matrix` holds, each with lr, weight_decay and momentum.
        dtype: to orthogonalise in.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": 0.95})
        self.dtype = dtype
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for weights in alike.values():
                self.turn(weights, group)

    def turn(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters of one shape."""
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
    """The weights of a convolution with the channels last, as they lie in memory; others as they are."""
    return weights.movedim(1, -1) if weights.ndim > 2 else weights
