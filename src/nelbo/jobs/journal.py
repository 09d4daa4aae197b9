"""The log of a training run: RUN/metrics.jsonl, and optionally TensorBoard's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.config.names import METRICS
from nelbo.errors import InputError
from nelbo.files import naming


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        InputError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard", "is not installed; pip install 'nelbo[tensorboard]'") from None
    return SummaryWriter


class Journal:
    """RUN/metrics.jsonl, with one object per logged step, and optionally TensorBoard's files.

    Args:
        path: the run directory.
        tensorboard: whether to write TensorBoard's files too.

    Raises:
        InputError: TensorBoard is requested but not installed.
    """

    def __init__(self, path: Path, tensorboard: bool) -> None:
        self.board: Any = None
        if tensorboard:
            self.board = summary_writer()(str(path / "tensorboard"))
        self.place = path / METRICS
        self.open()

    def open(self) -> None:
        """Open the file, and create it if needed."""
        self.file = self.place.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.place):
            self.file.close()
        if self.board is not None:
            self.board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of this step."""
        with naming(self.place):
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
