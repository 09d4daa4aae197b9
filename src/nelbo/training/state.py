"""The state of a run between two steps: weights, their average, and the optimisers' state, as named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel
from nelbo.processes import Team
from nelbo.training.checkpoint import fit
from nelbo.training.ema import EMA
from nelbo.training.muon import Muon
from nelbo.training.optimizers import MOMENTS
from nelbo.training.shards import distribute_like, gather


class State:
    """All tensors that a step changes.

    Args:
        model, ema, optimizers: their owners.
        team: the processes that hold shards; a team of one without shards.
    """

    def __init__(
        self, model: GenerativeModel, ema: EMA, optimizers: Sequence[torch.optim.Optimizer], team: Team
    ) -> None:
        self.model, self.ema, self.optimizers, self.team = model, ema, optimizers, team

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """model, ema and optimizer: name → tensor. With shards, every process must call this."""
        self.ema.collect(self.model, self.team.main)
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = {
            f"{names[id(p)]}/{key}": value
            for optimizer in self.optimizers
            for p, entry in optimizer.state.items()
            for key, value in entry.items()
        }
        parts = {"model": self.model.state_dict(), "ema": self.ema.model.state_dict(), "optimizer": moments}
        return {kind: self.gathered(part) for kind, part in parts.items()}

    def gathered(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        """The full tensors; shards are gathered on the main process only, one after another in the same order."""
        if self.team.count == 1:
            return part
        tensors = {}
        for name in sorted(part):
            full = gather(part[name])
            if self.team.main:
                tensors[name] = full.cpu()
        return tensors

    def restore(self, tensors: dict[str, dict[str, Tensor]], source: Path) -> None:
        """Restore all tensors.

        Raises:
            InputError: they do not fit the model.
        """
        current = self.model.state_dict()
        model = {name: distribute_like(x, current.get(name, x)) for name, x in tensors["model"].items()}
        fit(self.model, model, source / "model.safetensors")
        if self.team.main:
            fit(self.ema.model, tensors["ema"], source / "ema.safetensors")
        if self.team.count > 1:
            self.ema.split(self.model, tensors["ema"])
        parameters = dict(self.model.named_parameters())
        self.check_moments(tensors["optimizer"], source / "optimizer.safetensors")
        trained_by = self.trained_by()
        for key, value in tensors["optimizer"].items():
            name, _, moment = key.rpartition("/")
            p = parameters[name]
            entry = trained_by[name].state[p]
            # With the memory layout of the parameter, which the fused step requires.
            own = value.to(p.device) if moment == "step" else torch.empty_like(p).copy_(distribute_like(value, p))
            entry[moment] = own

    def trained_by(self) -> dict[str, torch.optim.Optimizer]:
        """Name of a parameter → its optimiser."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return {
            names[id(p)]: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }

    def check_moments(self, moments: dict[str, Tensor], path: Path) -> None:
        """Check the optimisers' state of every parameter; AdamW has none for a parameter without a gradient.

        Raises:
            InputError: names or shapes do not fit the model.
        """
        trained = {key.rpartition("/")[0] for key in moments}
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        own = {
            f"{name}/{moment}": () if moment == "step" else shapes[name]
            for name, optimizer in self.trained_by().items()
            for moment in MOMENTS[type(optimizer)]
            if name in trained or isinstance(optimizer, Muon)
        }
        theirs = {name: tuple(value.shape) for name, value in moments.items()}
        odd = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
        if odd:
            raise InputError(str(path), f"does not fit the model of config.toml (first difference: {odd[0]!r})")
