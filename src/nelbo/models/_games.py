"""The losses of a GAN's two players, as functions of the discriminator's outputs ℓ on images and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.errors import InputError
from nelbo.models._checks import Labelled
from nelbo.models._latent import require_drawing
from nelbo.models.sampling import SampleSettings


class Game(NamedTuple):
    """The loss of each player as a function of D's outputs ℓ, before the sigmoid.

    Attributes:
        critic: (ℓ(x), ℓ(G(z))) → the loss of D, shape (B,).
        generator: ℓ(G(z)) → the loss of G, shape (B,).
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
    # ln(1 − D(G(z))): the original game.
    "minimax": Game(cross_entropy, lambda drawn: -F.softplus(drawn)),
    # −ln D(G(z)): the same fixed point, with a gradient even if D is certain (Goodfellow et al. 2014, section 3).
    "non-saturating": Game(cross_entropy, lambda drawn: F.softplus(-drawn)),
    "hinge": Game(hinge, torch.neg),
    # ℓ(G(z)) − ℓ(x), over functions with |∇ℓ| = 1 (Arjovsky et al. 2017; Gulrajani et al. 2017).
    "wgan-gp": Game(lambda real, drawn: drawn - real, torch.neg),
}


def require_game(model: Labelled, loss: str, settings: SampleSettings) -> None:
    """Refuse settings that neither G(z, c) nor a Metropolis–Hastings chain over it uses.

    Args:
        model: the model.
        loss: the game, a name of :data:`GAMES`.
        settings: the settings of sampling.

    Raises:
        InputError: a setting is not used.
    """
    require_drawing(model, settings._replace(steps=None))
    if (settings.steps or 1) == 1:
        return
    if settings.temperature is not None:
        why = "cannot be combined with a chain (`steps`), which needs unchanged samples G(z)"
        raise InputError("temperature", f"{why}; leave one out")
    if GAMES[loss].critic is not cross_entropy:
        why = f"more than 1 needs a discriminator that estimates ln p(x)/p_G(x), which {loss} does not train"
        raise InputError("steps", f"{why}; leave it out")
