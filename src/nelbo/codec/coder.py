"""What a codec of images does: integers on a stack of 32-bit words, and off it again in the reverse order.

    words with n images = encode(images, words)          (images, words) = decode(words with n images, n)

A :class:`Coder` samples latents with the bits that are on the stack already, which :meth:`Coder.decode` gives back bit
by bit (bits-back coding; Frey & Hinton 1996, Townsend et al. 2019). So the first images need
:meth:`Coder.initial_words` words, which can carry images that another codec has made. An :class:`EachCoder` makes a
string of bytes of each image, which can be decoded alone.

A coder has no state between calls: chunks of images are independent, so several processes can code them at once, each
with a coder of its own. The result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nelbo.codec.stack import OutOfWordsError, Words
from nelbo.codec.vae import vae_coder, vae_settings
from nelbo.errors import InputError
from nelbo.models.base import GenerativeModel
from nelbo.models.vae import VAE

__all__ = ["Coder", "EachCoder", "Images", "OutOfWordsError", "Words", "coder_for"]

Images = NDArray[np.uint8]
"""Integer levels 0 … L−1, shape (n, C, H, W)."""


class Described(Protocol):
    """What the decoder must know, and how it can check itself.

    Attributes:
        settings: JSON values, all that :func:`coder_for` needs beside the model to make the same coder.
        in_flight: images per batch of the networks, which is part of the settings: the last batch is padded, so that
            chunks of a multiple of it are fastest.
    """

    settings: dict[str, Any]
    in_flight: int

    def golden(self) -> NDArray[np.float64]:
        """Parameters of the coder's laws for fixed inputs, some hundred numbers: :mod:`nelbo.codec.golden`."""


class Coder(Described, Protocol):
    """Images on a stack."""

    def encode(self, images: Images, words: Words) -> Words:
        """The stack with the images on it.

        Args:
            images: n images, n ≥ 0.
            words: the stack so far; any words.

        Raises:
            OutOfWordsError: the stack has too few words.
        """

    def decode(self, words: Words, count: int) -> tuple[Images, Words]:
        """The images of :meth:`encode`, in their order, and the stack as it was before.

        Wrong words give wrong images without an error, or any exception.
        """

    def initial_words(self) -> int:
        """The number of words that suffice for a stack's first images; add more after :class:`OutOfWordsError`."""


class EachCoder(Described, Protocol):
    """Images one by one: random access, for more bits."""

    def encode_each(self, images: Images) -> list[bytes]:
        """The bytes of each image."""

    def decode_each(self, codes: Sequence[bytes]) -> Images:
        """The images of these bytes.

        Wrong bytes give wrong images without an error, or any exception.
        """


def coder_for(
    model: GenerativeModel,
    settings: Mapping[str, Any] | None = None,
    *,
    images: Images | None = None,
    each: bool = False,
) -> Coder | EachCoder:
    """The codec of a model.

    Args:
        model: the model; a diffusion model in the steps that the codec shall take, see
            :func:`nelbo.jobs.steps.in_best_steps`. It is copied, and not changed.
        settings: ``settings`` of the coder that encoded, to decode; None for a new one, to encode.
        images: some images like those that will be encoded, for the choice of settings; not used with ``settings``.
        each: whether to code images one by one, an :class:`EachCoder`; not used with ``settings``.

    Raises:
        InputError: the model has no codec, or not this one, or the settings are not those of a coder.
    """
    if isinstance(model, VAE):
        given = vae_settings(model, examples(model, images), each).model_dump() if settings is None else dict(settings)
        return vae_coder(model, given)
    raise InputError("RUN", f"a {model.family} has no codec yet")


def examples(model: GenerativeModel, images: Images | None) -> Images:
    """The images, or samples of the model if there are none."""
    if images is None or not len(images):
        return model.sample(16).numpy()
    return images
