"""What a run is made of: its settings, read, checked, resolved and written."""

from nelbo.config.check import checked
from nelbo.config.families import family_module, family_names, family_summary, family_word
from nelbo.config.files import (
    CONFIG,
    ImagesConfig,
    RunConfig,
    merged,
    read_run_config,
    read_user_config,
    versions,
    write_run_config,
)

__all__ = [
    "CONFIG",
    "ImagesConfig",
    "RunConfig",
    "checked",
    "family_module",
    "family_names",
    "family_summary",
    "family_word",
    "merged",
    "read_run_config",
    "read_user_config",
    "versions",
    "write_run_config",
]
