"""Settings in TOML: a user's ``config`` file, and ``RUN/config.toml``, from which a run is rebuilt."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from nelbo import __version__
from nelbo.check import checked
from nelbo.config.convert import FORMAT, converted
from nelbo.config.families import families, family_module, family_names, family_word
from nelbo.config.names import CONFIG as CONFIG
from nelbo.errors import InputError, nearest
from nelbo.files import replace_text
from nelbo.models._distilled import DistillationOptions
from nelbo.options import FamilyOptions, Options, RunDataOptions, TrainingOptions

SECTIONS = ("data", "model", "training")
RECORDED = ("format", "images", "trained_on", "versions", "machine", "distillation", "parts")
KNOWN_VERSIONS = ("nelbo", "torch", "numpy", "python")
YOUNGER = {"optimizer": "adamw"}
"""The training settings of older runs that do not record them."""


class ImagesConfig(Options):
    """A record of the data."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shape: tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    levels: Annotated[int, Field(ge=2, le=256)]
    counts: dict[str, int]
    classes: tuple[str, ...] = ()


class TrainedOn(Options):
    """One of several data sets that a run was trained on."""

    from_step: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    counts: dict[str, int]


class RunConfig(Options):
    """The complete settings of a run, enough to rebuild its model."""

    format: Literal[2] = 2
    family: str
    data: RunDataOptions
    model: FamilyOptions
    training: TrainingOptions
    images: ImagesConfig
    trained_on: tuple[TrainedOn, ...] = ()
    "Every data set of a run whose data have changed, in order, the last as ``images``; else empty."
    distillation: DistillationOptions | None = None
    parts: dict[str, str] | None = None
    "Parts of the model from Python: argument name → name of the class or function."
    versions: dict[str, str]
    machine: dict[str, str] = Field(default_factory=dict)


def versions(family: str) -> dict[str, str]:
    """The versions for a run of this family, including another package's family."""
    package = families()[family].package
    theirs = {} if package is None else {package.name: package.version}
    libraries = {name: version(name) for name in ("torch", "numpy")}
    return {"nelbo": __version__, **libraries, "python": platform.python_version(), **theirs}


def run_config_text(config: RunConfig) -> str:
    """The contents of RUN/config.toml."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, serialize_as_any=True))


def write_run_config(run: Path, config: RunConfig) -> None:
    """Write RUN/config.toml."""
    replace_text(run / CONFIG, run_config_text(config))


def read_run_config(run: Path) -> RunConfig:
    """Read RUN/config.toml.

    Raises:
        InputError: the file does not exist, is not TOML, or is not a run's settings.
    """
    path = run / CONFIG
    if not path.is_file():
        raise InputError(str(run), f"is not a run: it has no {CONFIG}; give a directory made by 'nelbo train'")
    return run_config(read_toml(path), path)


def run_config(values: dict[str, Any], path: Path) -> RunConfig:
    """The settings in a RUN/config.toml.

    Raises:
        InputError: they are not a run's settings.
    """
    values = converted(values)
    require_format(values, path)
    try:
        return settings(values, path)
    except InputError as error:
        raise InputError(error.where, error.problem + made_by(values.get("versions"))) from None


def require_format(values: Mapping[str, Any], path: Path) -> None:
    """Check that the converted settings have this nelbo's format.

    Raises:
        InputError: they do not; the message names the version that reads them, if known.
    """
    if values.get("format") != FORMAT:
        needed = made_by(values.get("versions")) or "; it is of another version"
        raise InputError(str(path), f"has format {values.get('format')}, but this nelbo reads 1 to {FORMAT}{needed}")


def made_by(recorded: Any) -> str:
    """The version that a run needs, as the end of a message, if another version made it."""
    theirs, ours = recorded.get("nelbo") if isinstance(recorded, dict) else None, __version__
    if not isinstance(theirs, str) or theirs == ours:
        return ""
    return f"; the run was made by nelbo {theirs}, but this is {ours}: pip install nelbo=={theirs} reads it"


def brought_by(values: Mapping[str, Any]) -> str:
    """The package of a run's family, as the end of a message, if the run records one."""
    recorded = values.get("versions")
    others = recorded.items() if isinstance(recorded, dict) else ()
    needed = [f"{name}=={number}" for name, number in others if name not in KNOWN_VERSIONS]
    return f"; it is from another package: pip install {' '.join(needed)}" if needed else ""


def settings(values: dict[str, Any], path: Path) -> RunConfig:
    """The settings, each checked.

    Raises:
        InputError: a setting cannot be used.
    """
    family = values.get("family")
    if family not in family_names():
        known = ", ".join(family_names())
        raise InputError(f"{path}: family", f"{family!r} is not a family here ({known}){brought_by(values)}")
    model = checked(
        family_module(family).OPTIONS, table(values, "model", path), lambda field: f"{path}: [model] {field}"
    )
    training = YOUNGER | table(values, "training", path) if "training" in values else None
    config = checked(RunConfig, {**values, "model": model, "training": training}, lambda field: f"{path}: {field}")
    return config.model_copy(update={"model": config.model.resolved(config.images.shape)})


def read_user_config(path: Path) -> dict[str, dict[str, Any]]:
    """Read a ``config`` file: tables [data], [model] and [training], each optional; or a RUN/config.toml.

    Returns:
        section → field → value, and ``family`` → {"family": name} if the file has a family.

    Raises:
        InputError: the file cannot be read, or has an unknown key at the top level.
    """
    values = converted(read_toml(path))
    if "format" in values:
        require_format(values, path)
    known = [*SECTIONS, *RECORDED, "family"]
    for key in values:
        if key not in known:
            hint = nearest(key, known) or f"; settings belong in a table, [{'], ['.join(SECTIONS)}]"
            raise InputError(f"{path}: {key}", f"is not a setting{hint}")
    sections = {name: table(values, name, path) for name in SECTIONS}
    if "family" in values:
        sections["family"] = {"family": family_word(str(values["family"]), f"{path}: family")}
    return sections


def table(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """One table of a TOML file, or an empty one."""
    found = values.get(name, {})
    if not isinstance(found, dict):
        raise InputError(f"{path}: {name}", f"must be a table, [{name}]")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), f"is not TOML: {error}") from None


def merged(
    kind: type[Options],
    section: str,
    given: Mapping[str, Any],
    from_file: Mapping[str, Any],
    file: Path | None,
) -> Any:
    """Settings from the user's values, then the file's, then the defaults.

    Args:
        kind: the class of the settings.
        section: their table in the file.
        given: field → value from the command line or a Python call.
        from_file: field → value from ``config``.
        file: that file, for messages.

    Raises:
        InputError: a field is unknown or out of range; the message names its source.
    """

    def name(field: str) -> str:
        if field.split(".")[0] in from_file and field.split(".")[0] not in given:
            return f"{file}: [{section}] {field}"
        return field

    return checked(kind, {**from_file, **given}, name)
