"""What can be shown and said of a model: nothing that its loss, its samples or its bound depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from nelbo.errors import InputError
from nelbo.models._checks import Images
from nelbo.models.sampling import SampleSettings

if TYPE_CHECKING:
    from nelbo.models.base import GenerativeModel


class Inspector:
    """Presentation and diagnosis of one model. A family that has more to show has a subclass.

    Args:
        model: the model.
    """

    earliest_warning = 0
    """The step before which :meth:`warnings` are not asked for, as an untrained model has them all."""

    why_no_bound = ""
    """Why the family has no bound, if it has none: the end of a sentence."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def preview_settings(self) -> SampleSettings:
        """The settings of the samples that are drawn while the model trains."""
        return SampleSettings()

    @property
    def sample_evaluations(self) -> int:
        """The number of network evaluations of one image with the default settings."""
        return 1

    def describe_sampling(self, settings: SampleSettings) -> str:
        """One line that says how the model would draw, and what it would change on the way.

        Raises:
            InputError: a setting that this family has no use for.
        """
        require_one_step(self.model.family, settings)
        if settings.temperature is not None:
            raise InputError("temperature", f"{self.model.family} has no latents to spread; leave it out")
        return "in one step"

    def measures(self, images: Images, start: int = 0) -> dict[str, Tensor]:
        """What a family without a bound measures of each image: name → values, shape (n,).

        Args:
            images: integer levels, shape (n, C, H, W).
            start: index of the first image; where each image is compared with a sample, the sample has its index.
        """
        return {}

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        """Pictures of how the model works on a few unseen images: (title, images on [−1, 1], columns)."""
        return []

    def diagnostics(self, images: Images) -> dict[str, object]:
        """What unseen images show of the model beyond a bound or measures: name → value."""
        return {}

    def warnings(self, diagnostics: Mapping[str, object]) -> list[str]:
        """What has gone wrong, by the result of :meth:`diagnostics`: one line each, with what helps."""
        return []

    def facts(self) -> Mapping[str, object]:
        """What ``info`` says of this model beyond its settings: name → value."""
        return {}


def require_one_step(family: str, settings: SampleSettings) -> None:
    """Refuse the settings that only a sampler with steps has a use for.

    Raises:
        InputError: such a setting.
    """
    for option, value in (("sampler", settings.sampler), ("steps", settings.steps), ("eta", settings.eta)):
        if value is not None:
            raise InputError(option, f"a family of its kind draws in one step, and this is {family}; leave it out")
