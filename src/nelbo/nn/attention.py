"""softmax(q kᵀ/√d) v, in the way that is quickest for its size.

On a CPU in bfloat16 torch's fused kernel is slower than its three steps, as long as the scores q kᵀ fit the cache. So
they are made for a few images at a time, in bfloat16 too, and again on the way back rather than kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FEW, PIECE = 2**23, 2**20
"""So many scores are made at once, or where there are more, in pieces of so many."""
SHORT = 128
"""In float32 the fused kernel pays from here on, in positions."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v, shape (B, heads, positions, d)."""
    if q.device.type != "cpu" or (q.dtype == torch.float32 and q.shape[-2] >= SHORT):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        if len(pieces(q)) == 1 or torch.compiler.is_compiling():
            return at_once(q, k, v)
        return InPieces.apply(*(part.contiguous() for part in (q, k, v)))  # type: ignore[no-untyped-call]


def at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The three steps as they are written."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


def pieces(q: Tensor) -> list[slice]:
    """Which images go together."""
    B, heads, positions, _ = q.shape
    each = heads * positions**2
    size = B if B * each <= FEW else max(1, PIECE // each)
    return [slice(first, first + size) for first in range(0, B, size)]


class InPieces(torch.autograd.Function):
    """The same a few images at a time, and nothing kept but q, k and v."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.cat([at_once(q[part], k[part], v[part]) for part in pieces(q)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With P = softmax(S): dv = Pᵀ dy, dP = dy vᵀ, dS = P (dP − Σ P dP), dq = dS k/√d, dk = dSᵀ q/√d."""
        whole: tuple[Tensor, ...] = ctx.saved_tensors
        found = []
        for part in pieces(whole[0]):
            q, k, v = (each[part] for each in whole)
            dy, scaled = gradient[part], q * q.shape[-1] ** -0.5
            P = (scaled @ k.transpose(-1, -2)).softmax(-1)
            dS = torch._softmax_backward_data(dy @ v.transpose(-1, -2), P, -1, P.dtype)
            found.append((dS @ k * q.shape[-1] ** -0.5, dS.transpose(-1, -2) @ scaled, P.transpose(-1, -2) @ dy))
        dq, dk, dv = (torch.cat(parts) for parts in zip(*found, strict=True))
        return dq, dk, dv
