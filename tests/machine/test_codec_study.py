"""The study of the codec (``make codec``) at small size: what it says is that of the files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import codec
from nelbo.jobs import codec_crew, codec_worker, compress_job, decompress_chunks

IMAGES = np.random.default_rng(0).integers(0, 17, (7, 1, 6, 5), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_images_are_in_the_picture(channels: int) -> None:
    """Every image is found in it, and there is room for less than one more row of them."""
    images = np.repeat(IMAGES, channels, 1)
    sheet = codec.tiled(images)
    assert sheet.shape[0] == channels
    rows, columns = sheet.shape[1] // 6, sheet.shape[2] // 5
    assert 0 <= rows * columns - 7 < columns
    for k in range(7):
        row, column = divmod(k, columns)
        assert np.array_equal(sheet[:, 6 * row : 6 * row + 6, 5 * column : 5 * column + 5], images[k])


@pytest.mark.parametrize("name", codec.codecs())
def test_the_other_codecs_are_lossless(name: str) -> None:
    pixels = codec.shown(IMAGES[0], 17)
    with Image.open(io.BytesIO(codec.codecs()[name](pixels))) as image:
        assert np.array_equal(np.asarray(image.convert("L")), pixels)


def test_the_sizes_of_other_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bits/dim; a part of the images, where each is alone."""
    monkeypatch.setattr(codec, "PER_IMAGE", 2)
    found = codec.others(IMAGES, 17)
    png = codec.codecs()["PNG"]
    assert found["PNG, each"] == 8 * sum(len(png(codec.shown(image, 17))) for image in IMAGES[:2]) / (2 * 30)
    assert found["PNG, tiled"] == pytest.approx(8 * len(png(codec.shown(codec.tiled(IMAGES), 17))) / (7 * 30))


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small vae: sizes of the file, and shares that add up."""
    settings = {"latent": 4, "steps": 30, "batch_size": 16, "device": "cpu"}
    monkeypatch.setattr(codec, "ROWS", {"vae": codec.Row("vae", "vae", "digits", settings, {}, 0.005, 200)})
    for module in (compress_job, decompress_chunks):
        monkeypatch.setattr(module, "Worker", lambda opening, *_: codec_crew.Here(codec_worker.opened(opening), 1))
    facts = codec.measured(codec.ROWS["vae"], tmp_path, 100)
    assert facts["bytes"] == sum(facts["parts"].values())
    assert facts["bits_per_dim"] == pytest.approx(8 * facts["bytes"] / (100 * 64))
    page = codec.page({"vae": facts}, {"digits": {"xz": 2.5}})
    row = next(line for line in page.splitlines() if line.startswith("| vae | 30 | 100 |"))
    over = 100 * (facts["bits_per_dim"] / facts["bounds"]["own"] - 1)
    assert f"{facts['bytes']:,}" in row
    assert f"{over:+.2f}%" in row
    assert "| digits | 2.5000 |" in page
    assert f"| vae | {facts['weights_bytes']:,} |" in page
