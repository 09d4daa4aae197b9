"""Runs whose models stay in memory between answers, at most a few, at their latest checkpoint."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path

from nelbo.config.names import CONFIG
from nelbo.data import Dataset
from nelbo.errors import InputError
from nelbo.jobs.run import Run, is_place
from nelbo.models.base import GenerativeModel
from nelbo.studio.safety import Folders
from nelbo.training import latest_checkpoint

MOST = 4
"""Runs in memory; the one that was used longest ago goes first."""


class HeldRun(Run):
    """A run at one checkpoint, which loads each of its models once.

    Args:
        path: the run directory.
        folders: where its data may be.

    Raises:
        InputError: it cannot be opened, or a link in it leads out of the folders.
    """

    def __init__(self, path: Path, folders: Folders) -> None:
        super().__init__(folders.contained(path))
        self.folders = folders
        self.models: dict[tuple[str, str, int | None], GenerativeModel] = {}
        self.checkpoint  # noqa: B018  it is settled now, though the training may continue

    @cached_property
    def dataset(self) -> Dataset:
        """The run's data, if they are in the folders.

        Raises:
            InputError: they are elsewhere, or cannot be read.
        """
        data = self.config.data.data
        if is_place(data) and Path(data).expanduser().exists():
            self.folders.contained(data)
        return super().dataset

    @property
    def dependents(self) -> list[Path]:
        """Those that are in the folders; nothing else is opened."""
        return [path for path in super().dependents if self.folders.has(path)]

    def reopened(self) -> Run:
        """This run: :class:`Models` opens it again if there is a later checkpoint."""
        return self

    def model(self, weights: str = "ema", device: str = "auto", step: int | None = None) -> GenerativeModel:
        """The model, as :meth:`~nelbo.jobs.run.Run.model`, loaded the first time."""
        key = weights, device, step
        if key not in self.models:
            self.models[key] = super().model(weights, device, step)
        return self.models[key]


class Models:
    """The runs in memory.

    Args:
        folders: where runs may be.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders, self.runs, self.lock = folders, dict[Path, HeldRun](), threading.Lock()

    def run(self, path: str | None) -> HeldRun:
        """The run at its latest checkpoint.

        Raises:
            InputError: none is chosen, it has vanished, or it cannot be used.
        """
        if not path:
            raise InputError("run", "none is chosen; choose one above, or train one first")
        place = self.folders.inside(path)
        if not place.is_dir():
            self.runs.pop(place, None)
            raise InputError(place.name, "the run has vanished: it was moved or deleted; choose another")
        if latest_checkpoint(place) is None and (place / CONFIG).exists():
            fix = "wait until its training has written one, or train it on"
            raise InputError(place.name, f"has no checkpoint yet; {fix}")
        with self.lock:
            found = self.runs.pop(place, None)
            if found is None or found.checkpoint != latest_checkpoint(place):
                found = HeldRun(place, self.folders)
            self.runs[place] = found
            while len(self.runs) > MOST:
                self.runs.pop(next(iter(self.runs)))
            return found
