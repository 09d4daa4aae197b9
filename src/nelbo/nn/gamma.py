"""γ(t) = −ln SNR(t) on [0, 1]: a straight line, or monotone and learned (Kingma et al. 2021, appendix H)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPEED = 10.0
"""How many times faster than a weight ln h moves."""
LEAST = 0.2
"""What is straight in a learned curve: nowhere does it stand still."""

Curve = tuple[Tensor, Tensor]
"""The values of a function at some t, and its derivatives there."""


class LinearGamma(nn.Module):
    """γ(t) = γ_0 + (γ_1 − γ_0) t, with nothing to learn.

    Args:
        first, last: γ_0 < γ_1.
    """

    ends: Tensor

    def __init__(self, first: float, last: float) -> None:
        super().__init__()
        self.register_buffer("ends", torch.tensor([first, last], dtype=torch.float64))

    def forward(self, t: Tensor) -> Curve:
        """t in [0, 1], shape (B,), float64 → γ(t) and γ′(t), float64."""
        span = self.ends[1] - self.ends[0]
        return self.ends[0] + span * t, span.expand_as(t)


class LearnedGamma(nn.Module):
    """γ(t) = γ_0 + (γ_1 − γ_0) n(t), with n monotone from 0 to 1 and both ends learned.

    n is 0.2 t + Σ_j h_j sigmoid(s_j (t − ½) + b_j) with positive h_j and s_j, normalised by its values at 0 and 1. The
    sigmoids stand evenly over [0, 1], each some 0.05 wide, so it starts near the straight line. What is trained is
    ln h, scaled: a step of Adam is as large as the learning rate, and heights must be able to change by orders of
    magnitude while a network that needs small steps is trained.

    Args:
        first, last: γ_0 < γ_1 at the start.
        hidden: the number of sigmoids.
    """

    def __init__(self, first: float, last: float, hidden: int = 64) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([first, last], dtype=torch.float64))
        self.steepness = nn.Parameter(torch.full((hidden,), 20.0, dtype=torch.float64))
        self.place = nn.Parameter(torch.linspace(-11, 11, hidden, dtype=torch.float64))
        self.height = nn.Parameter(torch.full((hidden,), -math.log(hidden) / SPEED, dtype=torch.float64))

    def raw(self, t: Tensor) -> Curve:
        """The monotone curve before it is normalised."""
        steepness, height = F.softplus(self.steepness), (SPEED * self.height).exp()
        s = torch.sigmoid(steepness * (t[..., None] - 0.5) + self.place)
        return LEAST * t + (height * s).sum(-1), LEAST + (height * steepness * s * (1 - s)).sum(-1)

    def shape(self, t: Tensor) -> Curve:
        """n(t) and n′(t)."""
        low, high = self.raw(t.new_tensor([0.0, 1.0]))[0]
        value, slope = self.raw(t)
        return (value - low) / (high - low), slope / (high - low)

    def forward(self, t: Tensor) -> Curve:
        """t in [0, 1], shape (B,), float64 → γ(t) and γ′(t), float64."""
        n, slope = self.shape(t)
        span = self.ends[1] - self.ends[0]
        return self.ends[0] + span * n, span * slope


def split_gradient(gamma: LearnedGamma | LinearGamma, t: Tensor) -> tuple[Curve, Callable[[Tensor], None]]:
    """γ(t) and γ′(t), such that the ends get the gradient of the loss and the shape that of its square.

    The square of an unbiased estimate has the variance as its only part that the shape can change. As each image's loss
    depends on its own t alone, the gradient of loss² is 2 · loss times that of the loss: one backward pass serves both.

    Args:
        gamma: the curve; a straight one has nothing to learn, and comes back as it is.
        t: one per image, shape (B,).

    Returns:
        The curve at t, and a function to be told each image's loss, shape (B,), before the backward pass.
    """
    if isinstance(gamma, LinearGamma):
        return gamma(t), lambda loss: None
    scale = torch.ones_like(t)

    def tell(loss: Tensor) -> None:
        scale.copy_(2 * loss)

    shape = gamma.shape(t)
    for part in shape:
        if part.requires_grad:
            part.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]
    span = gamma.ends[1] - gamma.ends[0]
    n, slope = (part.detach() for part in shape)
    to_ends = (gamma.ends[0] + span * n, span * slope)
    to_shape = (span.detach() * (part - part.detach()) for part in shape)
    value, derivative = (a + b for a, b in zip(to_ends, to_shape, strict=True))
    return (value, derivative), tell
