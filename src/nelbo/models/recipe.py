"""How a model is trained beyond its loss: parameter groups, what is compiled, what is learned before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from nelbo.models.base import GenerativeModel


class ParamGroup(NamedTuple):
    """Parameters that are trained with settings of their own.

    Attributes:
        parameters: the parameters; their gradients are clipped by one norm.
        lr: their learning rate, as a multiple of the run's.
        betas: AdamW's β₁ and β₂.
        momentum: Muon's μ; with None, AdamW trains the matrices of this group too.
    """

    parameters: list[nn.Parameter]
    lr: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float | None = 0.95


class Recipe:
    """How one model is trained. A family that needs more than this has a subclass.

    Args:
        model: the model.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def groups(self) -> list[ParamGroup]:
        """The parameters, in groups with settings of their own."""
        return [ParamGroup(list(self.model.parameters()))]

    @property
    def compilable(self) -> list[nn.Module]:
        """The networks that do most of the work and that torch.compile can take; none by default."""
        return []

    def prepare(self, images: Tensor, levels: int, seed: int) -> None:
        """Learn what the model has to know of the training images before the first step; nothing by default.

        Args:
            images: integer levels, shape (N, C, H, W).
            levels: the number of levels of these images; more than the model's where each batch is binarised.
            seed: the seed of the run.
        """
