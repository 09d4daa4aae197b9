"""The training loop, and its checkpoints."""

from nelbo.training.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from nelbo.training.folders import latest_checkpoint
from nelbo.training.loop import Step, Trainer
from nelbo.training.signals import Interrupted

__all__ = [
    "Checkpoint",
    "Interrupted",
    "Step",
    "Trainer",
    "latest_checkpoint",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]
