"""A GAN's discriminator: strided convolutions to one number for each image, without normalisation.

A cluster and a label enter as products with the last features (Miyato & Koyama 2018). Layer norm would remove an
image's contrast from its logit, and R1 and gradient penalties only need smooth gradients.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nelbo.nn.autoencoder import Halve, sides
from nelbo.theory.likelihoods import to_default_dtype

SLOPE = 0.2
FIRST = 0.01
"""Standard deviation of the initial v_c and e_y, relative to weight rows of length 1."""


def small_embedding(count: int, features: int) -> nn.Embedding:
    """A table of random vectors of length FIRST on average."""
    table = nn.Embedding(count, features)
    nn.init.normal_(table.weight, std=FIRST / features**0.5)
    return table


class Critic(nn.Module):
    """x, shape (B, C, H, W), c(x) and y, shape (B,) → a logit or score of each image, (w + v_c + e_y)ᵀφ(x), shape (B,).

    Args:
        shape: (C, H, W).
        widths: channels at each resolution, finest first.
        fine: whether the finest of several resolutions, the most expensive one, has its own layer.
        spectral: whether to divide every layer's weights by their largest singular value (Miyato et al. 2018),
            estimated by one power iteration per step.
        clusters: the number of values of c; 0 for a critic without c.
        classes: the number of classes of labels; 0 for a critic without y.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        widths: tuple[int, ...],
        fine: bool,
        spectral: bool,
        clusters: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        height, width = sides(shape, len(widths))[-1]
        fine = fine or len(widths) == 1
        layers: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 3, padding=1)] if fine else []
        layers += [Halve(a, b, 4) for a, b in pairwise((widths[0] if fine else shape[0], *widths[1:]))]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.Flatten()]
        self.layers = nn.ModuleList(layers)
        features = widths[-1] * height * width
        self.last = nn.Linear(features, 1)
        self.each = small_embedding(clusters, features) if clusters else None
        self.labels = small_embedding(1 + classes, features) if classes else None
        if spectral:
            for layer in (*self.layers, self.last, self.each, self.labels):
                if layer is not None and not isinstance(layer, nn.Flatten):
                    spectral_norm(layer)

    def forward(self, x: Tensor, cluster: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The logit of each image.

        Args:
            x: images on [−1, 1], shape (B, C, H, W).
            cluster: c of each, shape (B,); None for a critic without c.
            label: y of each, 1 … K, 0 if unknown, int64, shape (B,); None if all are unknown.
        """
        h = x
        for layer in self.layers:
            h = layer(h)
            h = h if isinstance(layer, nn.Flatten) else F.leaky_relu(h, SLOPE)
        logit = to_default_dtype(self.last(h))[:, 0]
        if self.each is not None:
            logit = logit + to_default_dtype(self.each(cluster) * h).sum(1)
        if self.labels is not None:
            label = torch.zeros(len(h), dtype=torch.int64, device=h.device) if label is None else label
            logit = logit + to_default_dtype(self.labels(label) * h).sum(1)
        return logit
