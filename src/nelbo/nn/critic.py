"""What a GAN's discriminator is made of: strided convolutions, one number for each image, and no normalisation.

Layer norm would make an image's logit blind to its contrast, and R1 and gradient penalties want smooth slopes only.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nelbo.nn.autoencoder import Halve, sides

SLOPE = 0.2


class Critic(nn.Module):
    """x, shape (B, C, H, W) → a logit or score of each image, shape (B,).

    Args:
        shape: (C, H, W).
        widths: channels at each resolution, finest first.
        fine: whether the finest of several resolutions has a layer of its own, where it costs most.
        spectral: divide every layer's weights by their largest singular value (Miyato et al. 2018), estimated by one
            power iteration a step.
    """

    def __init__(self, shape: tuple[int, int, int], widths: tuple[int, ...], fine: bool, spectral: bool) -> None:
        super().__init__()
        height, width = sides(shape, len(widths))[-1]
        fine = fine or len(widths) == 1
        layers: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 3, padding=1)] if fine else []
        layers += [Halve(a, b, 4) for a, b in pairwise((widths[0] if fine else shape[0], *widths[1:]))]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.Flatten()]
        last = nn.Linear(widths[-1] * height * width, 1)
        self.layers = nn.ModuleList(layers)
        self.last = last
        if spectral:
            for layer in (*self.layers, self.last):
                if not isinstance(layer, nn.Flatten):
                    spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers:
            h = layer(h)
            h = h if isinstance(layer, nn.Flatten) else F.leaky_relu(h, SLOPE)
        return self.last(h).float()[:, 0]
