"""What each player of a GAN's game lowers, by the discriminator's outputs ℓ on images and on samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.errors import InputError
from nelbo.models._latent import require_drawing
from nelbo.models.sampling import SampleSettings


class Game(NamedTuple):
    """A loss for each player, from D's outputs ℓ, before any sigmoid.

    Attributes:
        critic: (ℓ(x), ℓ(G(z))) → what D lowers, shape (B,).
        generator: ℓ(G(z)) → what G lowers, shape (B,).
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def cross_entropy(real: Tensor, drawn: Tensor) -> Tensor:
    """−ln D(x) − ln(1 − D(G(z))), whose mean is −V(D, G)  [GAN (1)]."""
    return F.softplus(-real) + F.softplus(drawn)


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """max(0, 1 − ℓ(x)) + max(0, 1 + ℓ(G(z)))  [Lim & Ye 2017]."""
    return F.relu(1 - real) + F.relu(1 + drawn)


GAMES: dict[str, Game] = {
    # ln(1 − D(G(z))): the game as it is written.
    "minimax": Game(cross_entropy, lambda drawn: -F.softplus(drawn)),
    # −ln D(G(z)): the same fixed point, with a gradient where D is sure (Goodfellow et al. 2014, section 3).
    "non-saturating": Game(cross_entropy, lambda drawn: F.softplus(-drawn)),
    "hinge": Game(hinge, torch.neg),
    # ℓ(G(z)) − ℓ(x), over functions of slope 1 (Arjovsky et al. 2017; Gulrajani et al. 2017).
    "wgan-gp": Game(lambda real, drawn: drawn - real, torch.neg),
}


def require_game(family: str, loss: str, settings: SampleSettings) -> None:
    """Refuse what neither G(z, c) nor a Metropolis–Hastings chain over it has a use for.

    Args:
        family: the model's family, for the message.
        loss: its game, one of :data:`GAMES`.
        settings: how to draw.

    Raises:
        InputError: such a setting.
    """
    require_drawing(family, settings._replace(steps=None))
    if (settings.steps or 1) == 1:
        return
    if settings.temperature is not None:
        why = "has no place in a chain (`steps`), which moves by what D says of G(z) as they are"
        raise InputError("temperature", f"{why}; leave one out")
    if GAMES[loss].critic is not cross_entropy:
        why = f"more than 1 needs a discriminator that says ln p(x)/p_G(x), and {loss} trains none"
        raise InputError("steps", f"{why}; leave it out")
