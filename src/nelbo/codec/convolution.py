"""3×3 convolutions with a quarter of the multiplications, F(4×4, 3×3) (Winograd 1980; Lavin & Gray 2016).

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

of a 6×6 tile d of the input and a 3×3 kernel g is a 4×4 tile of the output; ⊙ is a product of matrices over the
channels for each of the 36 places. Both transforms are products with Kronecker matrices, so that all the work is in
products of matrices. In float64 it is about twice as fast as torch's convolution, which has no other kernel for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class FastConv(nn.Module):
    """A 3×3 convolution of stride 1 with a border of zeros, in float64.

    Args:
        conv: the convolution, see :func:`is_plain`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach().double()
        self.outputs, self.inputs = weight.shape[:2]
        g, b, a = (torch.tensor(rows, dtype=torch.float64) for rows in (G, B_T, A_T))
        kernels = torch.einsum("ai,bj,ocij->abco", g, g, weight)
        self.register_buffer("kernels", kernels.reshape(SIDE**2, self.inputs, self.outputs).contiguous())
        self.register_buffer("into", torch.kron(b, b).contiguous())
        self.register_buffer("out", torch.kron(a, a).contiguous())
        zeros = torch.zeros(self.outputs, dtype=torch.float64)
        self.register_buffer("bias", zeros if conv.bias is None else conv.bias.detach().double())

    kernels: Tensor
    into: Tensor
    out: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x, shape (B, C, H, W) → shape (B, outputs, H, W), in channels_last format."""
        count, channels, height, width = x.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        right, below = columns * TILE + 1 - width, rows * TILE + 1 - height
        whole = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below)).contiguous()
        line = whole.shape[2] * channels
        size = (SIDE, SIDE, count, rows, columns, channels)
        steps = (line, channels, whole.shape[1] * line, TILE * line, TILE * channels, 1)
        tiles = whole.as_strided(size, steps).reshape(SIDE**2, -1)
        products = torch.bmm((self.into @ tiles).view(SIDE**2, -1, channels), self.kernels)
        found = (self.out @ products.view(SIDE**2, -1)).view(TILE, TILE, count, rows, columns, self.outputs)
        image = found.permute(2, 3, 0, 4, 1, 5).reshape(count, rows * TILE, columns * TILE, self.outputs)
        return (image[:, :height, :width] + self.bias).permute(0, 3, 1, 2)


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
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_plain(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, FastConv(child))
