"""Checkpoints that are either complete or absent.

``RUN/checkpoints/step-00001000/`` holds model.safetensors, ema.safetensors, optimizer.safetensors and state.json. It is
written under another name, synced to disk and renamed; then ``RUN/checkpoints/latest`` is set to its name. state.json
has the size and SHA-256 of the tensor files, to detect damage. No file is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.files import atomic_write, remove, replace_text, sync_folder, write_synced
from nelbo.processes import Team
from nelbo.training.folders import NAME, damaged, folder_of, step_of, thin

FORMAT = 2
FILES = ("model", "ema", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that is needed to continue training.

    Args:
        state: step, seconds, random state, data position: JSON values.
        tensors: for each of model, ema and optimizer, name → tensor.
    """

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def write_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, set ``latest`` to it, and delete old ones; returns its folder."""
    final = folder_of(run, checkpoint.state["step"])
    with atomic_write(final) as aside:
        aside.mkdir()
        files = {}
        for name in FILES:
            data = safetensors.torch.save(
                {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors[name].items()}
            )
            write_synced(aside / f"{name}.safetensors", data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        state = {"format": FORMAT, **checkpoint.state, "files": files}
        write_synced(aside / "state.json", json.dumps(state, indent=1).encode())
        sync_folder(aside)
        remove(final)
    replace_text(final.parent / "latest", final.name)
    thin(run)
    return final


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint.

    Raises:
        InputError: the file is missing, not JSON, of a later format, or of another step than its folder's name.
    """
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read ({error})") from None
    if not is_state(state):
        raise damaged(path, "is not a checkpoint's state")
    if NAME.fullmatch(folder.name) and state["step"] != step_of(folder):
        raise damaged(path, f"is of step {state['step']}, but its folder is {folder.name}")
    if state.get("format") not in range(1, FORMAT + 1):
        raise InputError(str(path), f"has format {state.get('format')}, but this nelbo reads 1 to {FORMAT}; update it")
    return state


def is_state(state: Any) -> bool:
    """Whether this is a state of :func:`write_checkpoint`, in any format."""
    if not isinstance(state, dict) or not isinstance(state.get("files"), dict):
        return False
    files = [state["files"].get(name) for name in FILES]
    return (
        type(state.get("step")) is int
        and state["step"] >= 0
        and type(state.get("seconds")) in (int, float)
        and 0 <= state["seconds"] < math.inf
        and type(rollbacks_of(state)) is int
        and rollbacks_of(state) >= 0
        and isinstance(state.get("settings", {}), dict)
        and all(isinstance(f, dict) and type(f.get("bytes")) is int and isinstance(f.get("sha256"), str) for f in files)
    )


def rollbacks_of(state: dict[str, Any]) -> int:
    """How often the run went back to a checkpoint; called ``falls`` before 0.2."""
    rollbacks: int = state.get("rollbacks", state.get("falls", 0))
    return rollbacks


def read_tensors(folder: Path, name: str, state: dict[str, Any]) -> dict[str, Tensor]:
    """One of a checkpoint's tensor files.

    Raises:
        InputError: the file is missing, or its size or contents have changed.
    """
    path = folder / f"{name}.safetensors"
    expected = state["files"][name]
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise damaged(path, f"has {size:,} bytes, but {expected['bytes']:,} were written")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise damaged(path, "has changed since it was written")
        return renamed(safetensors.torch.load(data), state["format"])
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from None
    except safetensors.SafetensorError as error:
        raise damaged(path, f"cannot be read ({error})") from None


def renamed(tensors: dict[str, Tensor], written_in: int) -> dict[str, Tensor]:
    """The tensors under the names of this format; in format 1 the schedule of a ``vdm`` was called gamma."""
    if written_in > 1:
        return tensors
    return {re.sub(r"^((?:student|teacher)\.)?gamma\.", r"\1schedule.", name): x for name, x in tensors.items()}


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in this folder.

    Raises:
        InputError: a file is missing or damaged.
    """
    state = read_state(folder)
    return Checkpoint(state, {name: read_tensors(folder, name, state) for name in FILES})


def shared(team: Team, read: Callable[[], Checkpoint] | None) -> Checkpoint | None:
    """A checkpoint that the main process reads and sends to every process.

    Args:
        team: the processes.
        read: reads it on the main process; None if there is no checkpoint. Ignored on the others.

    Raises:
        InputError: it cannot be read; ElsewhereError on the other processes.
    """
    own: list[Checkpoint] = []  # on the main process, if there is a checkpoint

    def state() -> bytes:
        if read is not None:
            own.append(read())
        return json.dumps([checkpoint.state for checkpoint in own]).encode()

    states = json.loads(team.from_main(state))
    if not states or team.count == 1:
        return own[0] if own else None
    data = {name: team.from_main(lambda name=name: safetensors.torch.save(own[0].tensors[name])) for name in FILES}  # type: ignore[misc]
    return own[0] if own else Checkpoint(states[0], {n: safetensors.torch.load(part) for n, part in data.items()})


def load_weights(model: nn.Module, folder: Path, weights: str) -> dict[str, Any]:
    """Load ``model`` or ``ema`` weights of a checkpoint into a model; returns the checkpoint's state.

    Raises:
        InputError: the file is damaged, or does not fit the model.
    """
    state = read_state(folder)
    fit(model, read_tensors(folder, weights, state), folder / f"{weights}.safetensors")
    return state


def fit(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a model with the same names and shapes.

    Raises:
        InputError: names or shapes differ.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in tensors.items()}
        odd = min(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
        raise InputError(str(path), f"does not fit the model of config.toml (first difference: {odd!r})") from None
