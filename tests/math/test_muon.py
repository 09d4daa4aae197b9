"""Muon, against PyTorch's implementation and the singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nelbo.training.muon import Muon, is_matrix, orthogonalised

SHAPES = [(8, 8), (64, 16), (16, 144), (64, 576)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_are_kept_and_their_sizes_made_alike(shape: tuple[int, int]) -> None:
    """In the basis of M = U S Vᵀ the result is diagonal, and its diagonal what the quintic makes of S."""
    M = random(3, *shape)
    found = orthogonalised(M).double()
    U, S, Vt = torch.linalg.svd(M.double(), full_matrices=False)
    inside = U.mT @ found @ Vt.mT
    expected = S / S.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    # float32 round-off of products of up to 576 terms, five times over.
    torch.testing.assert_close(inside, torch.diag_embed(expected), rtol=0, atol=2e-4)
    torch.testing.assert_close(found, U @ inside @ Vt, rtol=0, atol=2e-4)
    if shape[0] != shape[1]:  # a square one may have singular values too near to zero to be raised
        assert 0.6 < expected.min().item() < expected.max().item() < 1.3


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonalised(torch.zeros(2, 8, 9)), torch.zeros(2, 8, 9))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_are_those_of_pytorch(decay: float) -> None:
    """torch.optim.Muon turns one matrix at a time, in bfloat16."""
    ours = [nn.Parameter(random(*shape, seed=k)) for k, shape in enumerate([*SHAPES, *SHAPES])]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon([{"params": ours, "lr": 0.02, "weight_decay": decay, "momentum": 0.9}], torch.bfloat16)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=decay, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    begin = [p.detach().clone() for p in ours]
    for step in range(8):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = random(*p.shape, seed=100 + step) * 10.0 ** (step % 3)
            q.grad = p.grad.clone()
        mine.step()
        other.step()
    for p, q, start in zip(ours, theirs, begin, strict=True):
        moved = float((q.detach() - start).square().mean().sqrt())
        # bfloat16 has 8 bits, and the five steps raise the smallest directions, errors and all, up to 3.4⁵-fold.
        assert float((p - q).detach().square().mean().sqrt()) < 0.03 * moved


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix_of_its_outputs(layout: torch.memory_format) -> None:
    conv = nn.Parameter(random(16, 12, 3, 3).to(memory_format=layout))
    flat = nn.Parameter(conv.detach().movedim(1, -1).flatten(1).clone())
    both = Muon([{"params": [conv, flat], "lr": 0.1, "weight_decay": 0.1}], torch.float32)
    for step in range(3):
        conv.grad = random(16, 12, 3, 3, seed=step).to(memory_format=layout)
        flat.grad = conv.grad.movedim(1, -1).flatten(1).clone()
        both.step()
    torch.testing.assert_close(conv.detach().movedim(1, -1).flatten(1), flat.detach(), rtol=0, atol=1e-6)
    assert conv.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (16, 288), (288, 16)])
def test_a_step_has_the_size_that_it_says(shape: tuple[int, ...]) -> None:
    """0.2 η, root mean square: within the spread of the quintic's singular values, 0.6 to 1.3."""
    p = nn.Parameter(torch.zeros(shape))
    p.grad = random(*shape)
    Muon([{"params": [p], "lr": 0.5, "weight_decay": 0.0}], torch.float32).step()
    assert 0.6 < float(p.detach().square().mean().sqrt()) / (0.2 * 0.5) < 1.3


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    steps = []
    for scale in (1e-6, 1e6):
        p = nn.Parameter(torch.zeros(16, 24))
        p.grad = scale * random(16, 24)
        Muon([{"params": [p], "lr": 1.0}], torch.float32).step()
        steps.append(p.detach())
    torch.testing.assert_close(*steps, rtol=0, atol=1e-5)


WEIGHTS = [((8, 8), True), ((1, 32, 3, 3), False), ((32, 1, 3, 3), True), ((64,), False), ((64, 4), False)]


@pytest.mark.parametrize(("shape", "turned"), WEIGHTS)
def test_which_weights_are_matrices(shape: tuple[int, ...], turned: bool) -> None:
    assert is_matrix(torch.empty(shape)) is turned
