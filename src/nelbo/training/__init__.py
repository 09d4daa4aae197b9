"""The training loop, and what it keeps."""

from nelbo.training.checkpoint import Checkpoint, latest_checkpoint, load_weights, read_checkpoint, write_checkpoint
from nelbo.training.loop import Interrupted, Step, Trainer

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
