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

from nelbo.codec.chain import chain_coder
from nelbo.codec.chain_settings import chain_settings
from nelbo.codec.hvae import hvae_coder, hvae_settings
from nelbo.codec.stack import OutOfWordsError, Words
from nelbo.codec.vae import vae_settings
from nelbo.codec.vae_each import each_settings, vae_coder
from nelbo.errors import InputError
from nelbo.models._distilled import Distilled
from nelbo.models.base import GenerativeModel, LikelihoodModel
from nelbo.models.diffusion import Diffusion
from nelbo.models.hvae import HVAE
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
        """Parameters of the coder's laws for fixed inputs, about a hundred numbers: :mod:`nelbo.codec.golden`."""


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
    require_codec(model, each)
    if isinstance(model, VAE):
        chosen = each_settings if each else vae_settings
        return vae_coder(model, settings or chosen(model, examples(model, images)).model_dump())
    if isinstance(model, HVAE):
        return hvae_coder(model, settings or hvae_settings(model, examples(model, images)).model_dump())
    assert isinstance(model, Diffusion)
    return chain_coder(model, settings or chain_settings(model).model_dump())


def require_codec(model: GenerativeModel, each: bool = False) -> None:
    """Check that there is a codec.

    Args:
        model: the model.
        each: whether it has to code images one by one.

    Raises:
        InputError: there is none.
    """
    if not isinstance(model, VAE | HVAE | Diffusion):
        raise InputError("RUN", f"cannot be compressed with: {why_not(model)}")
    if each and not isinstance(model, VAE):
        raise InputError("each", f"is for a vae, but this is {model.family}; leave it out")


def why_not(model: GenerativeModel) -> str:
    """Why a model has no codec, as the end of a sentence."""
    if isinstance(model, Distilled):
        return "a distilled student has no bound, which is what a codec weighs; compress with its teacher's run"
    if model.family == "gan":
        return "a gan has no p(x), so no image has a number of bits"
    if model.family == "ae":
        return "an ae has no p(x); its code of an image does not give back the image, but something near it"
    if isinstance(model, LikelihoodModel):
        return f"there is no codec of the family {model.family}"
    return f"a {model.family} has no bound"


def examples(model: GenerativeModel, images: Images | None) -> Images:
    """The images, or samples of the model if there are none."""
    if images is None or not len(images):
        return model.sample(16).numpy()
    return images
