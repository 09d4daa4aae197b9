"""Conversion of sizes and channels, only on request, on images with known results."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import random_pixels
from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import load
from nelbo.data.shaping import fit_pixels, to_channels
from nelbo.errors import InputError

FITS = ("crop", "pad", "resize")
lengths = st.integers(1, 12)


@given(h=lengths, w=lengths, height=lengths, width=lengths, channels=st.integers(1, 4), fit=st.sampled_from(FITS))
def test_size_is_reached_and_one_colour_stays_that_colour(h, w, height, width, channels, fit):
    colour = np.array([200, 100, 50, 255], np.uint8)[-channels:, None, None]
    found = fit_pixels(np.broadcast_to(colour, (channels, h, w)).copy(), (height, width), fit)
    assert found.shape == (channels, height, width)
    expected = colour if fit != "pad" else np.where(found[-1:] > 0, colour, 0)
    assert np.array_equal(found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize("fit", FITS)
def test_the_right_size_is_left_alone(fit):
    pixels = random_pixels((3, 5, 4))
    assert np.array_equal(fit_pixels(pixels, (5, 4), fit), pixels)


def test_crop_takes_the_centre_and_pad_keeps_everything():
    pixels = random_pixels((1, 4, 8))
    assert np.array_equal(fit_pixels(pixels, (4, 4), "crop"), pixels[:, :, 2:6])
    padded = fit_pixels(pixels, (8, 10), "pad")
    assert np.array_equal(padded[:, 2:6, 1:9], pixels)
    assert padded.sum() == pixels.sum()


def test_pad_scales_down_only_what_is_too_big():
    pixels = np.full((1, 20, 10), 90, np.uint8)
    padded = fit_pixels(pixels, (10, 10), "pad")
    assert np.array_equal(padded[0, 0] > 0, [False] * 2 + [True] * 5 + [False] * 3)


def test_downscaling_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))
    small = fit_pixels(stripes, (16, 16), "resize")
    assert small[:, :, 2:-2].astype(int).min() > 100
    assert small.max() < 155


def test_hidden_colours_do_not_bleed_through_alpha():
    pixels = np.zeros((4, 8, 8), np.uint8)
    pixels[0], pixels[1, :, :4], pixels[3, :, 4:] = 0, 255, 255  # green where transparent, black where opaque
    found = fit_pixels(pixels, (4, 4), "resize")
    assert found[1][found[3] > 128].max() == 0


@pytest.mark.parametrize("have", [1, 2, 3, 4])
@pytest.mark.parametrize("want", [1, 2, 3, 4])
def test_channels(have, want):
    pixels = random_pixels((have, 3, 5))
    found = to_channels(pixels, want, 256)
    assert found.shape == (want, 3, 5)
    colour = pixels[:3] if have > 2 else pixels[:1]
    alpha = pixels[-1] if have in (2, 4) else np.full((3, 5), 255)
    if want in (2, 4):
        assert np.array_equal(found[-1], alpha)
    grey = np.array([0.299, 0.587, 0.114]) @ colour.reshape(3, -1) if have > 2 else colour.reshape(-1)
    if want < 3:
        assert np.abs(found[0].reshape(-1) - grey).max() <= 0.501
    else:
        assert np.array_equal(found[:3], np.broadcast_to(colour, (3, 3, 5)))


def test_named_sets_can_be_shaped_and_it_is_said():
    data = load("digits", size=(10, 12), fit="pad", channels=2)
    assert data.shape == (2, 10, 12)
    assert np.array_equal(data.images[:, 0, 1:9, 2:10].numpy(), load("digits").images[:, 0].numpy())
    assert data.images[:, 1].unique().tolist() == [16]
    assert data.notes == ("sizes converted to 10x12 by `fit` pad", "channels converted from 1 to 2")
    assert int(load("digits", size=(20, 20), fit="resize").images.max()) <= 16


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": (9, 9)}, "fit: images of 8x8 do not have the size 9x9; add `fit`"),
        ({"fit": "crop"}, "fit: crop needs a size"),
        ({"size": (8, 8), "fit": "corp"}, "fit: input should be 'crop', 'pad' or 'resize'"),
        ({"size": (0, 8)}, "size"),
        ({"channels": 5}, "channels: input should be less than or equal to 4, not 5"),
        ({"channels": 0}, "channels"),
        ({"levels": 1}, "levels"),
        ({"levels": 257}, "levels"),
        ({"levels": 16}, "levels: 16 is too few: digits has a pixel of 16"),
    ],
)
def test_options_out_of_range_are_named(options, match):
    with pytest.raises(InputError, match=f"^{match}"):
        load("digits", **options)


def test_a_size_that_all_have_needs_no_fit():
    assert load("digits", size=(8, 8)).sha256 == load("digits").sha256
