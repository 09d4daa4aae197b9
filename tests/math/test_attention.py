"""Attention, in each implementation, against its definition in float64, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nelbo.nn.attention as ways
from nelbo.nn.attention import SHORT, InPieces, at_once, attention, pieces


def three(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, and their gradients wanted."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3))
    return q, k, v


def by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v, in float64."""
    q, k, v = (part.double() for part in (q, k, v))
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


def compare(found: Tensor, expected: Tensor, of: tuple[Tensor, ...], tolerance: float) -> None:
    """Values and gradients, to this share of the largest."""
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = torch.autograd.grad((expected * direction).sum(), of, retain_graph=True)
    mine = torch.autograd.grad((found * direction.to(found.dtype)).sum(), of)
    for ours, other in zip((found, *mine), (expected, *theirs), strict=True):
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(ours.double(), other.double(), rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("positions", [SHORT - 1, SHORT])
def test_in_float32(positions: int) -> None:
    """On both sides of the length at which the products give way to torch's kernel."""
    given = three(2, 3, positions, 8, dtype=torch.float32)
    compare(attention(*given), by_definition(*given), given, 1e-5)


@pytest.mark.parametrize("few", [2**23, 1])
def test_in_bfloat16_at_once_and_in_pieces(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under autocast, as in training; probabilities have eight bits: 2⁻⁸, and a few of them in a gradient."""
    monkeypatch.setattr(ways, "FEW", few)
    monkeypatch.setattr(ways, "PIECE", 6 * 20**2)
    given = three(5, 3, 20, 8, dtype=torch.bfloat16)
    compare(attention(*given), by_definition(*given), given, 0.03)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*given)
    assert found.dtype == torch.bfloat16
    compare(found, by_definition(*given), given, 0.03)


@pytest.mark.parametrize("scale", [1.0, 7.0, 100.0])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pieces_change_nothing(size: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, to round-off, gradients too; also where a row's largest has to be taken off first.

    Scores of some hundred are rounded in units of 2⁻⁴⁴, and exp makes that a share of what comes out.
    """
    monkeypatch.setattr(ways, "PIECE", size * 7**2)
    q, k, v = three(1, 5, 7, 4, dtype=torch.float64)
    given = ((q * scale).detach().requires_grad_(), k, v)
    assert [part for part, *_ in pieces(given[0])][-1] == slice({1: 4, 2: 4, 5: 0}[size], 5)
    tolerance = 1e-14 if scale < 10 else 1e-12
    compare(InPieces.apply(*given), at_once(*given), given, tolerance)
    compare(InPieces.apply(*given), by_definition(*given), given, tolerance)


@pytest.mark.parametrize("highest", [0.99, 1.01, 2.4])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_up_to_the_bound_are_neither_lost_nor_infinite(highest: float, sign: int) -> None:
    """All scores of a row just below, just above or far above the power of 2 from which the largest comes off first."""
    length = (highest * ways.HIGHEST * math.log(2) * 8**0.5) ** 0.5
    q, k, v = three(2, 2, 256, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        q.zero_()[..., 0] = length
        k.zero_()[..., 0] = sign * length
        k[:, :, ::2] *= 0.5
    small = 1e-8
    expected = by_definition(q, k, v) * small
    compare(InPieces.apply(q, k, v) * small, expected, (v,), 0.03)
    found = torch.autograd.grad(InPieces.apply(q, k, v).float().sum() * small, (q, k, v))
    assert all(part.isfinite().all() for part in found)
