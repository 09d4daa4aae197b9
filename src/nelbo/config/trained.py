"""The settings that trained weights depend on: saved in every checkpoint, and compared with config.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.config.files import CONFIG, RunConfig
from nelbo.errors import InputError

LONGEST = 60
"""Largest number of characters of a value in a message."""


def weight_settings(config: RunConfig) -> dict[str, Any]:
    """The family, [model], the images' shape and levels, and [distillation] without the teacher's path, as JSON values.

    With another value of any of these, the same weights are another model.
    """
    resolved = config.model_copy(update={"model": config.model.resolved(config.images.shape)})
    plain = resolved.model_dump(mode="json", serialize_as_any=True)
    settings = {
        "family": plain["family"],
        "model": plain["model"],
        "images": {name: plain["images"][name] for name in ("shape", "levels")},
    }
    if plain["distillation"] is not None:
        settings["distillation"] = {name: v for name, v in plain["distillation"].items() if name != "teacher"}
    return settings


def require_trained(config: RunConfig, trained: Mapping[str, Any], run: Path, checkpoint: Path) -> None:
    """Check that the weights were trained with a run's current settings.

    Args:
        config: the settings in config.toml.
        trained: :func:`weight_settings` at the time of the checkpoint; empty in older checkpoints. A setting that only
            one of them has is not compared.
        run: the run directory.
        checkpoint: the checkpoint's folder.

    Raises:
        InputError: a setting differs.
    """
    for field, now, then in differing(weight_settings(config), trained):
        raise InputError(
            f"{run / CONFIG}: {field}",
            f"is {shown(now)}, but {checkpoint.name} was trained with {shown(then)}; restore it, or start a new run",
        )


def differing(now: Any, then: Any, place: tuple[str, ...] = ()) -> list[tuple[str, Any, Any]]:
    """Every setting that both have with different values: its name as in config.toml, and both values."""
    if isinstance(now, dict) and isinstance(then, Mapping):
        return [each for name in now if name in then for each in differing(now[name], then[name], (*place, name))]
    if now == then:
        return []
    *tables, field = place
    return [(f"[{'.'.join(tables)}] {field}" if tables else field, now, then)]


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = "left out" if value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
