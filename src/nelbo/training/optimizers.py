"""The optimisers of a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nelbo.models.recipe import ParamGroup
from nelbo.options import TrainingOptions
from nelbo.training.machine import compute_dtype
from nelbo.training.muon import Muon, is_matrix

MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), Muon: ("momentum",)}
"""The state of each optimiser for a parameter."""


def optimizers_of(
    groups: Sequence[ParamGroup], options: TrainingOptions, device: torch.device
) -> list[torch.optim.Optimizer]:
    """Muon for matrices, if chosen, and AdamW for the rest; vectors have no weight decay."""
    by_muon: list[dict[str, Any]] = []
    by_adamw: list[dict[str, Any]] = []
    for group in groups:
        may_turn = options.optimizer == "muon" and group.momentum is not None
        turned = [p for p in group.parameters if may_turn and is_matrix(p)]
        others = [p for p in group.parameters if not (may_turn and is_matrix(p))]
        decay = {"times": group.lr, "weight_decay": options.weight_decay}
        by_muon.append({"params": turned, "momentum": group.momentum, **decay})
        by_adamw.append({"params": [p for p in others if p.ndim >= 2], "betas": group.betas, **decay})
        vectors = {"params": [p for p in others if p.ndim < 2], "betas": group.betas, **decay}
        by_adamw.append(vectors | {"weight_decay": 0.0})
    dtype = compute_dtype(device, options.precision)
    adamw = torch.optim.AdamW(by_adamw, lr=options.lr, fused=True)
    return [adamw, Muon(by_muon, dtype)] if any(each["params"] for each in by_muon) else [adamw]
