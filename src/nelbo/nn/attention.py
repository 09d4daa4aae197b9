"""softmax(q kᵀ/√d) v, by the fastest method for its size.

On a CPU in bfloat16 torch's fused kernel is slower than the three separate steps, if the scores S = q kᵀ/√d fit the
cache. So the scores of a few heads at a time are computed in bfloat16, and computed again in the backward pass. Only
the exponential of the softmax is applied to them; its sums are an additional column of v,

    E = exp S,   [o l | l] = E [v | 1],

and so are those of the backward pass  [FlashAttention (Dao et al. 2022), appendix B, with P = E / l]:

    dv = Eᵀ (do / l),   dS = E ∘ ([do / l | −Σ o do / l] [v | 1]ᵀ),   dq = dS k/√d,   dk = dSᵀ q/√d.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.units import BITS_PER_NAT

FEW, PIECE = 2**23, 2**20
"""Scores computed at once; if there are more, scores in each piece."""
HIGHEST = 60.0
"""Largest score as a power of 2; above it, each row's maximum is subtracted first. It is half of a float's range,
because the backward pass divides by sums of scores and gradients can be small."""
SHORT = 128
"""Positions from which the fused kernel is faster in float32."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v, shape (B, heads, positions, d)."""
    if q.device.type != "cpu" or (q.dtype == torch.float32 and q.shape[-2] >= SHORT):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        if q.shape[:2].numel() * q.shape[-2] ** 2 <= FEW or torch.compiler.is_compiling():
            return at_once(q, k, v)
        mixed: Tensor = InPieces.apply(q, k, v)  # type: ignore[no-untyped-call]
        return mixed


def at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The three separate steps."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


class InPieces(torch.autograd.Function):
    """The same for a few heads at a time, without storing a tensor of the size of the scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ/√d) v."""
        q = torch.mul(q, q.shape[-1] ** -0.5 * BITS_PER_NAT, out=side_by_side(q))  # exp2 is faster than exp
        k, v = side_by_side(k).copy_(k), with_column(v, 1.0)
        free = longest(q) * longest(k) > HIGHEST
        mixed = torch.empty_like(v)
        for part, E, _ in pieces(q):
            exponentials(rows(q)[part], rows(k)[part], E, free)
            torch.bmm(E, rows(v)[part], out=rows(mixed)[part])
        total = mixed[..., -1:]
        o = torch.div(mixed[..., :-1], total, out=heads_together(q))
        ctx.free = free
        ctx.save_for_backward(q, k, v, o, total)
        return o

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v."""
        whole: tuple[Tensor, ...] = ctx.saved_tensors
        q, k, v, o, total = whole
        scaled = torch.div(gradient, total, out=torch.empty_like(q))
        sums = (gradient * o).sum(-1, keepdim=True, dtype=torch.promote_types(q.dtype, torch.float32))
        both = with_column(scaled, -(sums / total))
        dq, dk, dv = (torch.empty_like(q) for _ in range(3))
        for part, E, dS in pieces(q):
            exponentials(rows(q)[part], rows(k)[part], E, ctx.free)
            torch.bmm(E.mT, rows(scaled)[part], out=rows(dv)[part])
            torch.bmm(rows(both)[part], rows(v)[part].mT, out=dS).mul_(E)
            torch.bmm(dS, rows(k)[part], out=rows(dq)[part])
            torch.bmm(dS.mT, rows(q)[part], out=rows(dk)[part])
        dq, dk = (
            torch.mul(x, s, out=heads_together(x)) for x, s in ((dq, q.shape[-1] ** -0.5), (dk, 1 / BITS_PER_NAT))
        )
        return dq, dk, dv


def rows(x: Tensor) -> Tensor:
    """(B, heads, positions, d) as (B·heads, positions, d)."""
    return x.flatten(0, 1)


def side_by_side(x: Tensor) -> Tensor:
    """Memory for (B, heads, positions, d) with each head contiguous, the layout for matrix products."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def heads_together(x: Tensor) -> Tensor:
    """Memory for (B, heads, positions, d) with each position contiguous, the layout for layers."""
    B, heads, positions, d = x.shape
    return x.new_empty(B, positions, heads, d).transpose(1, 2)


def with_column(x: Tensor, column: Tensor | float) -> Tensor:
    """x with an additional column, shape (B, heads, positions, d + 1)."""
    wider = x.new_empty(*x.shape[:-1], x.shape[-1] + 1)
    wider[..., :-1], wider[..., -1:] = x, column
    return wider


def longest(x: Tensor) -> float:
    """An upper bound of the length of every vector: √d times the largest absolute value."""
    lowest, highest = x.aminmax()
    return x.shape[-1] ** 0.5 * max(-float(lowest), float(highest))


def exponentials(q: Tensor, k: Tensor, out: Tensor, free: bool) -> None:
    """2 to the power of q kᵀ, shape (n, positions, positions); if ``free``, each row is divided by its maximum."""
    torch.bmm(q, k.mT, out=out)
    if free:
        out -= out.amax(-1, keepdim=True)
    out.exp2_()


def pieces(q: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The heads of each piece, and memory for two sets of their scores, which all pieces share."""
    B, heads, positions, _ = q.shape
    N = B * heads
    size = max(1, PIECE // positions**2)
    room = q.new_empty(2, min(N, size), positions, positions)
    for first in range(0, N, size):
        n = min(size, N - first)
        yield slice(first, first + n), room[0, :n], room[1, :n]
