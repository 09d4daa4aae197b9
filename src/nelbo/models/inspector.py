"""Pictures, diagnostics and texts of a model, on which its loss, samples and bound do not depend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from nelbo.errors import InputError
from nelbo.models._checks import Images
from nelbo.models._labels import drawn_classes
from nelbo.models.sampling import SampleSettings

if TYPE_CHECKING:
    from nelbo.models.base import GenerativeModel


class Inspector:
    """Presentation and diagnosis of one model. A family with more to show has a subclass.

    Args:
        model: the model.
    """

    earliest_warning = 0
    """The first step at which :meth:`warnings` are given, because an untrained model has all of them."""

    why_no_bound = ""
    """The reason that the family has no bound, as the end of a sentence; "" if it has one."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def preview_settings(self) -> SampleSettings:
        """The settings of samples during training."""
        return SampleSettings()

    @property
    def sample_evaluations(self) -> int:
        """Network evaluations of one image with the default settings."""
        return 1

    def describe_sampling(self, settings: SampleSettings) -> str:
        """A line about how the model samples with these settings.

        Raises:
            InputError: the family does not use a setting.
        """
        require_one_step(self.model.family, settings)
        drawn_classes(self.model, settings)
        if settings.temperature is not None:
            raise InputError("temperature", f"{self.model.family} has no latents to scale; leave it out")
        return "in one step"

    def measures(self, images: Images, start: int = 0) -> dict[str, Tensor]:
        """Measures of each image for a family without a bound: name → values, shape (n,).

        Args:
            images: integer levels, shape (n, C, H, W).
            start: index of the first image; a sample that is compared with an image has the same index.
        """
        return {}

    def views(self, images: Images) -> list[tuple[str, Tensor, int]]:
        """Pictures of how the model works on a few unseen images: (title, images on [−1, 1], columns)."""
        return []

    def diagnostics(self, images: Images) -> dict[str, object]:
        """Facts from unseen images beyond a bound or measures: name → value."""
        return {}

    def warnings(self, diagnostics: Mapping[str, object]) -> list[str]:
        """Problems in the result of :meth:`diagnostics`: one line each, with a remedy."""
        return []

    def facts(self) -> Mapping[str, object]:
        """Facts for ``info`` beyond the settings: name → value."""
        return {}


def require_one_step(family: str, settings: SampleSettings) -> None:
    """Refuse settings that only a multistep sampler uses.

    Raises:
        InputError: such a setting is given.
    """
    for option, value in (("sampler", settings.sampler), ("steps", settings.steps), ("eta", settings.eta)):
        if value is not None:
            raise InputError(option, f"{family} samples in one step; leave it out")
    require_unguided(family, settings)


def require_unguided(family: str, settings: SampleSettings) -> None:
    """Refuse guidance, which only a diffusion model of labels has.

    Raises:
        InputError: it is given.
    """
    for option in ("guidance", "guidance_interval", "weaker"):
        if getattr(settings, option) is not None:
            raise InputError(option, f"{family} has no guidance; leave it out, or use a ddpm or vdm with `labels`")


def require_unlabelled(family: str, settings: SampleSettings, fix: str) -> None:
    """Refuse settings that only a model of labels uses.

    Args:
        family: the family, for the message.
        settings: the settings of sampling.
        fix: what can be done instead, as the end of the message.

    Raises:
        InputError: such a setting is given.
    """
    require_unguided(family, settings)
    if settings.label is not None:
        raise InputError("label", f"{family} does not draw by labels; leave it out, or {fix}")
