"""The settings that trained weights depend on: kept with every checkpoint, compared with config.toml on opening."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nelbo.config.files import CONFIG, RunConfig
from nelbo.errors import InputError

LONGEST = 60
"""Characters of a value in a message."""


def weight_settings(config: RunConfig) -> dict[str, Any]:
    """The family, [model], the images' shape and levels, and [distillation] but for the teacher's path, as JSON values.

    The same weights under another value of any of these are another model.
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
    """Check that a run's settings are those that its weights were trained with.

    Args:
        config: what config.toml says.
        trained: what :func:`weight_settings` said when the checkpoint was written; empty in older checkpoints. A
            setting that only one of both has is younger than the other, and is not compared.
        run: the run directory.
        checkpoint: the checkpoint's folder.

    Raises:
        InputError: one of them differs.
    """
    for field, now, then in differing(weight_settings(config), trained):
        raise InputError(
            f"{run / CONFIG}: {field}",
            f"is {shown(now)}, and {checkpoint.name} was trained with {shown(then)}; set it back, or begin a new run",
        )


def differing(now: Any, then: Any, place: tuple[str, ...] = ()) -> list[tuple[str, Any, Any]]:
    """Every setting that both have and in which they differ: its name as in config.toml, and both values."""
    if isinstance(now, dict) and isinstance(then, Mapping):
        return [each for name in now if name in then for each in differing(now[name], then[name], (*place, name))]
    if now == then:
        return []
    *tables, field = place
    return [(f"[{'.'.join(tables)}] {field}" if tables else field, now, then)]


def shown(value: Any) -> str:
    """A value in a message."""
    text = "left out" if value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
