"""Networks of a hierarchy of latents z_T … z_1, each a map at one resolution of a pyramid over the image.

Level t has the resolution ``places[t − 1]``, an index into the widths: coarsest for z_T, finer below.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nelbo.nn.autoencoder import Double, Halve, blocks_of, sides
from nelbo.nn.blocks import ChannelNorm, zeroed
from nelbo.nn.labels import LabelledNetwork


def places_of(depth: int, resolutions: int) -> tuple[int, ...]:
    """The resolutions of z_1 … z_T, evenly distributed over all but the finest, which is for the pixels.

    >>> places_of(4, 3)
    (1, 1, 2, 2)
    >>> places_of(3, 3)
    (1, 2, 2)
    """
    count = max(1, resolutions - 1)
    return tuple(resolutions - 1 - (depth - t) * count // depth for t in range(1, depth + 1))


class Levels(NamedTuple):
    """The resolutions of the latents, and the networks around them.

    Attributes:
        widths: channels at each resolution, finest first.
        blocks: residual blocks at each.
        places: the resolution of z_1 … z_T.
        latent: channels of each z_t.
        classes: the number of classes; 0 for networks without labels.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    places: tuple[int, ...]
    latent: int
    classes: int = 0


def parts_of(sizes: Sequence[int]) -> list[slice]:
    """Consecutive parts of a vector.

    >>> parts_of([3, 2])
    [slice(0, 3, None), slice(3, 5, None)]
    """
    ends = [0, *accumulate(sizes)]
    return [slice(a, b) for a, b in pairwise(ends)]


def law_head(width: int, latent: int) -> nn.Sequential:
    """Features → μ and ln σ of a distribution of z, both 0 before training."""
    return nn.Sequential(ChannelNorm(width), nn.SiLU(), zeroed(nn.Conv2d(width, 2 * latent, 1)))


def down_to(a: int, b: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Sequential:
    """From resolution a to b, which is equal or coarser."""
    return nn.Sequential(
        *(nn.Sequential(Halve(widths[k], widths[k + 1]), blocks_of(widths[k + 1], blocks[k + 1])) for k in range(a, b))
    )


def up_to(
    a: int, b: int, widths: tuple[int, ...], blocks: tuple[int, ...], sizes: list[tuple[int, int]]
) -> nn.Sequential:
    """From resolution a to b, which is equal or finer; ``sizes`` has those of all resolutions."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(widths[k + 1], widths[k], 1),
                Double(sizes[k]),
                blocks_of(widths[k], blocks[k]),
            )
            for k in range(a - 1, b - 1, -1)
        )
    )


class Pyramid(LabelledNetwork):
    """x, shape (B, C, H, W), and y if it is known, shape (B,) → features at every resolution, finest first.

    Args:
        channels: C.
        widths: channels at each resolution, finest first.
        blocks: residual blocks at each.
        classes: the number of classes; 0 for a network without labels.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], blocks: tuple[int, ...], classes: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1), blocks_of(widths[0], blocks[0]))
        self.steps = nn.ModuleList(down_to(k, k + 1, widths, blocks) for k in range(len(widths) - 1))
        self.learn_labels(classes, widths[0])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, label: Tensor | None = None) -> list[Tensor]:
        first, blocks = self.stem
        features = [blocks(self.plus_label(first(x.contiguous(memory_format=torch.channels_last)), label))]
        for step in self.steps:
            features.append(step(features[-1]))
        return features


class Ladder(LabelledNetwork):
    """The generative network: from z_t to features that give p(z_{t−1}|z_t), and finally the image.

    Args:
        shape: (C, H, W) of the images.
        outputs: channels of the last features, the input of p(x|z_1).
        levels: the latents' resolutions and networks.
        stream: whether features of every level also go to the next: p(z_{t−1}|z_t) becomes p(z_{t−1}|z_{≥t}).
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, levels: Levels, stream: bool) -> None:
        super().__init__()
        widths, blocks, places, latent, classes = levels
        self.stream = stream
        sizes = sides(shape, len(widths))
        self.maps = [(latent, *sizes[place]) for place in places]
        below = (0, *places)
        self.into = nn.ModuleList(nn.Conv2d(latent, widths[place], 1) for place in places)
        self.body = nn.ModuleList(
            nn.Sequential(blocks_of(widths[place], blocks[place]), up_to(place, below[t], widths, blocks, sizes))
            for t, place in enumerate(places)
        )
        self.laws = nn.ModuleList(law_head(widths[place], latent) for place in places[:-1])
        self.parts = parts_of([widths[place] for place in places])
        self.learn_labels(classes, self.parts[-1].stop)
        self.pixels = nn.Sequential(ChannelNorm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], outputs, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def below(self, z: Tensor, t: int, above: Tensor | None, label: Tensor | None = None) -> Tensor:
        """The features of z_t and y for the next level; with ``stream``, ``above`` (those of z_{t+1}) is added."""
        h = self.into[t - 1](z.contiguous(memory_format=torch.channels_last))
        h = self.plus_label(h, label, self.parts[t - 1])
        return self.body[t - 1](h if above is None or not self.stream else h + above)

    def law(self, features: Tensor, t: int) -> Tensor:
        """μ and ln σ of p(z_t|z_{t+1}) along dimension 1, t < T."""
        return self.laws[t - 1](features)

    def image(self, features: Tensor) -> Tensor:
        """The features of z_1 → shape (B, outputs, H, W)."""
        return self.pixels(features)


class TopDown(nn.Module):
    """q(z_t|z_{t+1}, x), from the ladder's features at level t and the image's features at its resolution.

    With labels, the image's features depend on y.

    Args:
        channels: C.
        levels: the latents' resolutions and networks.
    """

    def __init__(self, channels: int, levels: Levels) -> None:
        super().__init__()
        widths, blocks, places, latent, classes = levels
        self.places = places
        self.pyramid = Pyramid(channels, widths, blocks, classes)
        self.meet = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[p] * (1 if t == len(places) else 2), widths[p], 1),
                blocks_of(widths[p], 1),
                law_head(widths[p], latent),
            )
            for t, p in enumerate(places, 1)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, seen: list[Tensor], above: Tensor | None, t: int) -> Tensor:
        """The difference of q from p at level t along dimension 1, from the pyramid's features and those of z_{t+1}."""
        mine = seen[self.places[t - 1]]
        return self.meet[t - 1](mine if above is None else torch.cat([mine, above], dim=1))


class BottomUp(LabelledNetwork):
    """q(z_t|z_{t−1}), or q(z_t|z_{t−1}, y), with z_0 = x, with one network for each level.

    Args:
        channels: C.
        levels: the latents' resolutions and networks.
    """

    def __init__(self, channels: int, levels: Levels) -> None:
        super().__init__()
        widths, blocks, places, latent, classes = levels
        below = (0, *places)
        self.parts = parts_of([widths[below[t]] for t in range(len(places))])
        self.learn_labels(classes, self.parts[-1].stop)
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(latent if t else channels, widths[below[t]], 3, padding=1),
                blocks_of(widths[below[t]], blocks[below[t]]),
                down_to(below[t], place, widths, blocks),
                law_head(widths[place], latent),
            )
            for t, place in enumerate(places)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, t: int, label: Tensor | None = None) -> Tensor:
        """μ and ln σ of q(z_t|z_{t−1}, y) along dimension 1."""
        step: Any = self.steps[t - 1]
        first, *others = step
        h = self.plus_label(first(z.contiguous(memory_format=torch.channels_last)), label, self.parts[t - 1])
        for layer in others:
            h = layer(h)
        return h
