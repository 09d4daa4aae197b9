"""3×3 convolutions with a quarter of the multiplications, F(4×4, 3×3) (Winograd 1980; Lavin & Gray 2016).

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

of a 6×6 tile d of the input and a 3×3 kernel g is a 4×4 tile of the output; ⊙ is a product of matrices over the
channels for each of the 36 places. Both transforms are products with Kronecker matrices, so that all the work is in
products of matrices. In float64 it is about twice as fast as torch's convolution, which has no other kernel for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

TILE = 4
SIDE = TILE + 2
FEWEST = 8
"""Channels below which torch's convolution is as fast."""
B_T = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0]]
B_T += [[0, 4, 0, -5, 0, 1]]
G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
]
G += [[0, 0, 1]]
A_T = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class Scratch:
    """Tensors for intermediate results, which the convolutions of a model use in turn, so that they stay in cache."""

    def __init__(self) -> None:
        self.kept: dict[tuple[object, ...], Tensor] = {}

    def get(self, name: str, *shape: int, of: tuple[int, ...] = ()) -> Tensor:
        """A float64 tensor of this shape for this use, of zeros when it is new.

        Args:
            name: the use.
            shape: the shape.
            of: what else the use depends on.
        """
        key = (name, shape, of)
        if key not in self.kept:
            self.kept[key] = torch.zeros(shape, dtype=torch.float64)
        return self.kept[key]


class FastConv(nn.Module):
    """A 3×3 convolution of stride 1 with a border of zeros, in float64, without gradients.

    Args:
        conv: the convolution, see :func:`is_plain`.
        scratch: shared by the convolutions of a model, which one thread calls.
    """

    def __init__(self, conv: nn.Conv2d, scratch: Scratch) -> None:
        super().__init__()
        weight = conv.weight.detach().double()
        self.outputs, self.inputs = weight.shape[:2]
        g, b, a = (torch.tensor(rows, dtype=torch.float64) for rows in (G, B_T, A_T))
        kernels = torch.einsum("ai,bj,ocij->abco", g, g, weight)
        self.register_buffer("kernels", kernels.reshape(SIDE**2, self.inputs, self.outputs).contiguous())
        self.register_buffer("into", torch.kron(b, b).contiguous())
        self.register_buffer("out", torch.kron(a, a).contiguous())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().double())
        self.scratch = scratch

    kernels: Tensor
    into: Tensor
    out: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x, shape (B, C, H, W) → shape (B, outputs, H, W), in channels_last format."""
        count, channels, height, width = x.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        places, tiles = SIDE**2, count * rows * columns
        seen = self.scratch.get("tiles", places, tiles * channels)
        seen.view(SIDE, SIDE, count, rows, columns, channels).copy_(self.tiles(x, rows, columns))
        turned = torch.mm(self.into, seen, out=self.scratch.get("turned", places, tiles * channels))
        products = self.scratch.get("products", places, tiles, self.outputs)
        # NumPy's is faster than torch's for so small matrices
        np.matmul(turned.view(places, tiles, channels).numpy(), self.kernels.numpy(), out=products.numpy())
        if self.bias is not None:
            products[SIDE + 1] += self.bias  # Aᵀ E A is a matrix of ones, where E is 1 in row and column 1
        found = torch.mm(
            self.out, products.view(places, -1), out=self.scratch.get("found", TILE**2, tiles * self.outputs)
        )
        parts = found.view(TILE, TILE, count, rows, columns, self.outputs).permute(2, 3, 0, 4, 1, 5)
        image = parts.reshape(count, rows * TILE, columns * TILE, self.outputs)
        return image[:, :height, :width].permute(0, 3, 1, 2)

    def tiles(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """The overlapping tiles of x within its border, a view of shape (6, 6, B, rows, columns, C)."""
        count, channels, height, width = x.shape
        sides = rows * TILE + 2, columns * TILE + 2
        whole = self.scratch.get("whole", count, *sides, channels, of=(height, width))
        whole[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
        line = sides[1] * channels
        size = (SIDE, SIDE, count, rows, columns, channels)
        return whole.as_strided(size, (line, channels, sides[0] * line, TILE * line, TILE * channels, 1))


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution that :class:`FastConv` computes faster."""
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
        and (module.padding, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        and min(module.in_channels, module.out_channels) >= FEWEST
    )


def replace_convolutions(model: nn.Module) -> None:
    """Replace the convolutions of a model by faster ones that cannot be trained."""
    scratch = Scratch()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_plain(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, FastConv(child, scratch))
