"""softmax(q kᵀ/√d) v, in the way that is quickest for its size.

On a CPU in bfloat16 torch's fused kernel is slower than its three steps, as long as the scores S = q kᵀ/√d fit the
cache. So they are made for a few heads at a time, in bfloat16 too, and again on the way back rather than kept. Of a
softmax only the exponential goes through them: its sums are one more column of v,

    E = exp S,   [o l | l] = E [v | 1],

and so they are on the way back  [FlashAttention (Dao et al. 2022), appendix B, with P = E / l]:

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
"""So many scores are made at once, or where there are more, in pieces of so many."""
HIGHEST = 100.0
"""Powers of 2 that no score can pass, or else each row's largest is taken off first: 2^±100 are floats, with room."""
SHORT = 128
"""In float32 the fused kernel pays from here on, in positions."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v, shape (B, heads, positions, d)."""
    if q.device.type != "cpu" or (q.dtype == torch.float32 and q.shape[-2] >= SHORT):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        B, heads, positions, _ = q.shape
        if B * heads * positions**2 <= FEW or torch.compiler.is_compiling():
            return at_once(q, k, v)
        mixed: Tensor = InPieces.apply(*(part.flatten(0, 1) for part in (q, k, v)))  # type: ignore[no-untyped-call]
        return mixed.reshape(B, heads, positions, -1)


def at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The three steps as they are written."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


class InPieces(torch.autograd.Function):
    """The same for q, k and v of shape (N, positions, d), a few of the N at a time; nothing kept as large as scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q * (q.shape[-1] ** -0.5 * BITS_PER_NAT)  # exp is slower than 2 to the power of
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        free = float(q.norm(dim=-1).max() * k.norm(dim=-1).max()) > HIGHEST
        mixed = torch.empty_like(v)
        for part, E, _ in pieces(q):
            exponentials(q[part], k[part], E, free)
            torch.bmm(E, v[part], out=mixed[part])
        mixed = mixed.to(torch.promote_types(mixed.dtype, torch.float32))
        o, total = mixed[..., :-1], mixed[..., -1:]
        ctx.free = free
        ctx.save_for_backward(q, k, v, o / total, total)
        return (o / total).to(q.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole: tuple[Tensor, ...] = ctx.saved_tensors
        q, k, v, o, total = whole
        scaled = gradient / total
        both = torch.cat([scaled, -(scaled * o).sum(-1, keepdim=True)], -1).to(q.dtype)
        scaled = scaled.to(q.dtype)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(scaled)
        for part, E, dS in pieces(q):
            exponentials(q[part], k[part], E, ctx.free)
            torch.bmm(E.mT, scaled[part], out=dv[part])
            torch.bmm(both[part], v[part].mT, out=dS).mul_(E)
            torch.bmm(dS, k[part], out=dq[part])
            torch.bmm(dS.mT, q[part], out=dk[part])
        return dq * q.shape[-1] ** -0.5, dk / BITS_PER_NAT, dv


def exponentials(q: Tensor, k: Tensor, out: Tensor, free: bool) -> None:
    """2 to the power of q kᵀ, shape (n, positions, positions), each row divided by its largest if they are free."""
    torch.bmm(q, k.mT, out=out)
    if free:
        out -= out.amax(-1, keepdim=True)
    out.exp2_()


def pieces(q: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Which go together, and room for two sets of their scores, always the same."""
    N, positions, _ = q.shape
    size = max(1, PIECE // positions**2)
    room = q.new_empty(2, min(N, size), positions, positions)
    for first in range(0, N, size):
        n = min(size, N - first)
        yield slice(first, first + n), room[0, :n], room[1, :n]
