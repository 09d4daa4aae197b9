"""A small classifier; its last hidden layer is a feature space for distances between sets of images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.nn.blocks import ChannelNorm
from nelbo.nn.ladder import Pyramid

FEATURES = 64


class Classifier(nn.Module):
    """x on [−1, 1], shape (B, C, H, W) → logits, shape (B, classes).

    Args:
        channels: C.
        widths: channels at each resolution, finest first.
        classes: the number of classes.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels, widths, (1,) * len(widths))
        self.norm = ChannelNorm(widths[-1])
        self.hidden = nn.Linear(4 * widths[-1], FEATURES)
        self.last = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, shape (B, 64), computed from the mean features of each quarter of the image."""
        coarse = F.silu(self.norm(self.pyramid(x)[-1]))
        return F.silu(self.hidden(F.adaptive_avg_pool2d(coarse, 2).flatten(1)).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x)).float()
