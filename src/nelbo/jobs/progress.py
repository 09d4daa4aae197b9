"""Runs in folders, and how far their training is, from their files alone; nothing here needs torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nelbo.config.names import CONFIG, METRICS
from nelbo.errors import InputError
from nelbo.files import lock_holder

DEPTH = 2
"""Runs are found this deep in a folder."""
POINTS = 400
"""Points of a curve: a longer one is thinned."""


@dataclass(frozen=True)
class Progress:
    """The training of a run.

    Attributes:
        path: the run directory.
        family, data: the names of its family and data.
        minutes, steps: the length that was asked for; one of them is None.
        step: the last logged step.
        seconds: seconds of training until then; at the end all that were asked for, also if the last ones were kept
            for the last samples and the checkpoint.
        images_per_second: the speed at that step; None before the first.
        loss: (step, loss) of logged steps.
        val: (step, bits/dim on val, its standard error) of each preview.
        pid: the process that trains now, 0 if its number is unknown; None if there is none.
    """

    path: Path
    family: str
    data: str
    minutes: float | None
    steps: int | None
    step: int = 0
    seconds: float = 0.0
    images_per_second: float | None = None
    loss: list[tuple[int, float]] = field(default_factory=list)
    val: list[tuple[int, float, float]] = field(default_factory=list)
    pid: int | None = None

    @property
    def share(self) -> float:
        """The fraction of the training that is done, in [0, 1]."""
        done = self.step / self.steps if self.steps else self.seconds / (60 * (self.minutes or 1))
        return min(1.0, done)

    @property
    def left(self) -> float | None:
        """Estimated seconds until the end; None while unknown."""
        return self.seconds * (1 / self.share - 1) if self.share > 0 else None


def found_runs(folders: Iterable[Path]) -> list[Path]:
    """The run directories in folders, or these folders themselves, those with the latest changes first."""
    found = {path for folder in folders for path in runs_below(folder, DEPTH)}
    return sorted(found, key=lambda path: (-changed(path), str(path)))


def changed(run: Path) -> float:
    """When the log of a run, or else its settings, changed, in seconds."""
    for name in (METRICS, CONFIG):
        try:
            return (run / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """The run directories in a folder, this deep; links are not followed."""
    try:
        if (folder / CONFIG).is_file():
            yield folder
        elif depth:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                    yield from runs_below(path, depth - 1)
    except OSError:  # a folder that cannot be read, or that has vanished
        return


def progress_of(run: Path) -> Progress:
    """How far the training of a run is.

    Raises:
        InputError: the run has vanished, or its settings cannot be read.
    """
    try:
        settings = tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
        training = settings.get("training", {})
        family, data = str(settings["family"]), str(settings["images"]["name"])
    except FileNotFoundError:
        raise InputError(str(run), "the run has vanished: it was moved or deleted; choose another") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(str(run / CONFIG), f"cannot be read ({type(error).__name__}); restore it") from None
    rows = list(logged(run / METRICS))
    losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
    last: Mapping[str, Any] = next((row for row in reversed(rows) if "seconds" in row), {})
    seconds = max(float(last.get("seconds", 0.0)), kept_seconds(run))
    return Progress(
        run,
        family,
        data,
        training.get("minutes"),
        training.get("steps"),
        step=int(last.get("step", 0)),
        seconds=seconds,
        images_per_second=last.get("images_per_second"),
        loss=thinned(losses),
        val=[
            (int(row["step"]), float(row["val_bits_per_dim"]), float(row.get("val_stderr", 0.0)))
            for row in rows
            if "val_bits_per_dim" in row
        ],
        pid=lock_holder(run),
    )


def kept_seconds(run: Path) -> float:
    """Seconds of training of the newest checkpoint; 0 if there is none."""
    newest = max((run / "checkpoints").glob("step-*/state.json"), default=None)
    try:
        return 0.0 if newest is None else float(json.loads(newest.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # it is reported when the checkpoint is read
        return 0.0


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about POINTS of the points, evenly, with the last."""
    every = -(-len(points) // POINTS)
    return [*points[:-1][:: every or 1], *points[-1:]]


def logged(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log, without a last one that is being written; none if there is no log yet."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def latest_samples(run: Path) -> Path | None:
    """The newest grid of samples that the training has drawn, or None."""
    return max((run / "samples").glob("step-????????.png"), default=None)


def default_folders() -> list[Path]:
    """The folder ``runs``, which is made if it does not exist.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path("runs")
    folder.mkdir(exist_ok=True)
    return [folder]
