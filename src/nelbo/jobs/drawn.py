"""Drawn images, with how they were made, as a picture or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from nelbo.models.base import GenerativeModel
from nelbo.report.pictures import beside, rows_of, save_gif, save_images


@dataclass(frozen=True)
class Drawn:
    """Samples, and how they were made.

    Attributes:
        images: integer levels, uint8, shape (n, C, H, W).
        frames: x̂_0 at about 60 steps, each like ``images``, if they were kept.
        levels: L.
        classes: image i is of the class i mod their number; none without a label.
        family: the family of the model.
        how: a description of the sampling.
        seconds: the time that it took.
        evaluations: network evaluations of an image.
        known: what is known of the quality of the run's samples.
    """

    images: Tensor
    frames: list[Tensor]
    levels: int
    classes: list[str]
    family: str
    how: str
    seconds: float
    evaluations: float
    known: str

    @property
    def labels(self) -> list[str]:
        """The class of each image; none without a label."""
        return [self.classes[i % len(self.classes)] for i in range(len(self.images))] if self.classes else []

    def sheet(self) -> Image.Image:
        """All images in one picture, a row for each class."""
        return rows_of(by_class(self.images, self.classes), self.levels)

    def save(self, out: Path, real: Callable[[], list[Tensor]] | None = None) -> None:
        """Write the images by the suffix of ``out``; a .gif shows the frames.

        Args:
            out: the path, which must not exist.
            real: the real images to show beside them, a row for each class; None for none.
        """
        if out.suffix.lower() == ".gif":
            save_gif([rows_of(by_class(frame, self.classes), self.levels) for frame in self.frames], out)
            return

        def render() -> Image.Image:
            if real is None:
                return self.sheet()
            theirs = rows_of(real(), self.levels)
            return beside(theirs, "real images", self.sheet(), f"samples of {self.family}")

        save_images(self.images, self.levels, out, render, self.labels)


@contextmanager
def counted(model: GenerativeModel) -> Iterator[Callable[[], int]]:
    """A context that counts the images which pass through the networks of a diffusion model.

    Yields:
        A function that returns the count; of another model it is 0.
    """
    seen = 0

    def see(network: nn.Module, given: object, found: object) -> None:
        nonlocal seen
        seen += len(found) if isinstance(found, Tensor) else 0

    hooks = [network.register_forward_hook(see) for network in model.recipe.compilable]
    try:
        yield lambda: seen
    finally:
        for hook in hooks:
            hook.remove()


def by_class(images: Tensor, classes: Sequence[str]) -> list[Tensor]:
    """The images of each class; all together without classes."""
    return [images[k :: len(classes)] for k in range(len(classes))] if classes else [images]
