"""nelbo: train, sample and score images with generative models whose bounds you can check.

import nelbo

run = nelbo.train("ddpm", "digits", minutes=2)
model = nelbo.load(run.path)
images = model.sample(64)
bound = model.bound(images)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nelbo.errors import InputError
    from nelbo.jobs import Run, compare, load, sample, score, train

__all__ = ["InputError", "Run", "compare", "load", "sample", "score", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``nelbo --help`` need not wait for torch."""
    if name == "InputError":
        from nelbo.errors import InputError

        return InputError
    if name in __all__:
        from nelbo import jobs

        return getattr(jobs, name)
    raise AttributeError(f"module 'nelbo' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is public, and the version."""
    return sorted([*__all__, "__version__"])
