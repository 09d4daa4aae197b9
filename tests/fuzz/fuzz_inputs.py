"""Untrusted inputs as bytes: one function for each kind of file, and good files to start from."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import tomli_w
import torch
from PIL import Image

from nelbo.codec.apart import decode_apart, encode_apart
from nelbo.codec.archive import Archive, ArchiveWriter, Header, Table
from nelbo.codec.chunks import DamagedChunkError, decode_chunk, plain_chunk
from nelbo.codec.coder import coder_for
from nelbo.codec.container import TABLE
from nelbo.codec.kinds import Kind
from nelbo.config.files import read_run_config, read_user_config
from nelbo.data.arrays import read_npz
from nelbo.data.decode import AVIF, BadImageError, quiet_decoding
from nelbo.data.folder import read_folder
from nelbo.data.idx import read_idx
from nelbo.errors import InputError
from nelbo.jobs.archive_facts import facts_of
from nelbo.jobs.codec_worker import ChunkCoder
from nelbo.models.base import GenerativeModel
from nelbo.models.diffusion import in_steps
from nelbo.models.vae import VAE, VAEOptions
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.options import DataOptions, RunDataOptions, TrainingOptions
from nelbo.training.checkpoint import FILES, Checkpoint, fit, read_checkpoint, write_checkpoint

CLEAR = (InputError, BadImageError)
"""How bad input ends: by a line that says what is wrong with it."""
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
HEADER = {
    **{"nelbo": "0", "family": "vae", "weights": "ema", "weights_sha256": "0" * 64, "model_sha256": "0" * 64},
    **{"step": 1, "shape": (1, 4, 4), "levels": 17, "count": 5, "apart": 1, "coder": {}},
}
SHAPE = (1, 4, 4)
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def idx(data: bytes, folder: Path) -> None:
    """An IDX file, perhaps gzipped."""
    (folder / "x").write_bytes(data)
    read_idx(folder / "x")


def npz(data: bytes, folder: Path) -> None:
    """An archive of arrays."""
    (folder / "x.npz").write_bytes(data)
    read_npz(folder / "x.npz")


def config(data: bytes, folder: Path) -> None:
    """A run's settings, and the same file as a user's."""
    (folder / "config.toml").write_bytes(data)
    with contextlib.suppress(InputError):
        read_user_config(folder / "config.toml")
    read_run_config(folder)


def checkpoint(data: bytes, folder: Path) -> None:
    """One file of a checkpoint, by the first byte: its state, or tensors with a digest that fits them."""
    whole = write_checkpoint(folder, Checkpoint({"step": 1, "seconds": 1.0}, dict.fromkeys(FILES, WEIGHTS)))
    which, rest = data[:1], data[1:]
    if which in (b"", b"s"):
        (whole / "state.json").write_bytes(rest)
    else:
        (whole / "model.safetensors").write_bytes(rest)
        state = json.loads((whole / "state.json").read_text())
        state["files"]["model"] = {"bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()}
        (whole / "state.json").write_text(json.dumps(state))
    fit(torch.nn.Linear(3, 2), read_checkpoint(whole).tensors["model"], whole)


def images(data: bytes, folder: Path) -> None:
    """A folder of one image, whatever it is called."""
    (folder / "x.png").write_bytes(data)
    with quiet_decoding():
        read_folder(folder, RunDataOptions())


def archive(data: bytes, folder: Path) -> None:
    """A compressed file: all that is read of it without a model."""
    (folder / "x.nelbo").write_bytes(data)
    facts = facts_of(folder / "x.nelbo")
    facts.to_json()
    facts.lines()
    with Archive(folder / "x.nelbo") as found:
        for head, block in found.chunks():
            with contextlib.suppress(DamagedChunkError):
                decode_chunk(found.container.read(block), found.header.shape, None)
            assert head.rows.stop <= found.header.count
        for _, block in found.apart():
            with contextlib.suppress(ValueError):
                decode_apart(found.container.read(block))
        if found.problems:
            raise InputError("x.nelbo", found.problems[0])


def part(data: bytes, folder: Path) -> None:
    """One part of a compressed file, with digests that fit it, by the first byte."""
    which, rest = data[:1], data[1:]
    stream, header = io.BytesIO(), Header.model_validate(HEADER)
    writer = ArchiveWriter(stream, header, np.linspace(-1, 1, 5))
    {b"c": writer.chunk, b"a": writer.apart}.get(which, lambda rest: writer._add("table", TABLE, rest))(rest)
    if which in b"ca":
        writer.finish(Table())
    else:
        writer.writer.finish()
    archive(stream.getvalue(), folder)


def coded(data: bytes, folder: Path) -> None:
    """A chunk of a model, by the first byte, after the settings of its coder, whose digest in the header would fit."""
    settings, _, payload = data[1:].partition(b"\n")
    model, _ = coding_models().get(data[:1], coding_models()[b"v"])
    try:
        found = Header.model_validate(HEADER | {"coder": json.loads(settings)}).coder
    except (ValueError, RecursionError):
        raise InputError("x.nelbo", "its header is damaged") from None
    coder = coder_for(model, found)
    coder.golden()
    with contextlib.suppress(DamagedChunkError):
        decode_chunk(payload, SHAPE, coder)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "idx": idx,
    "npz": npz,
    "config": config,
    "checkpoint": checkpoint,
    "images": images,
    "archive": archive,
    "part": part,
    "coded": coded,
}


def ends_well(name: str, data: bytes) -> str:
    """Read it: ``read``, or the class of the clear error. Anything else goes through."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        try:
            TARGETS[name](data, Path(folder))
        except CLEAR as error:
            return type(error).__name__
    return "read"


def seeds(name: str) -> list[bytes]:
    """Good files."""
    return {
        "idx": idx_files,
        "npz": npz_files,
        "config": config_files,
        "checkpoint": parts,
        "images": pictures,
        "archive": archives,
        "part": archive_parts,
        "coded": coded_parts,
    }[name]()


def idx_files() -> list[bytes]:
    plain = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))
    labels = bytes([0, 0, 8, 1]) + (5).to_bytes(4, "big") + bytes(range(5))
    return [plain, labels, gzip.compress(plain, mtime=0)]


def npz_files() -> list[bytes]:
    found = []
    for arrays in (
        {"images": np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "labels": np.array([0, 1, 2])},
        {"images": np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "levels": np.int64(48)},
        {"arr_0": np.arange(60, dtype=np.uint8).reshape(5, 4, 3), "arr_1": np.arange(5)},
        {"x_train": np.zeros((3, 4, 4, 3), np.uint8), "x_test": np.ones((2, 4, 4, 3), bool)},
    ):
        for save in (np.savez, np.savez_compressed):
            stream = io.BytesIO()
            save(stream, **arrays)  # type: ignore[arg-type]
            found.append(stream.getvalue())
    return found


def config_files() -> list[bytes]:
    run = {
        "format": 1,
        "family": "vdm",
        "data": DataOptions().model_dump(exclude_none=True),
        "model": {"widths": [8, 8], "gamma": "learned"},
        "training": TrainingOptions(steps=3).model_dump(exclude_none=True),
        "images": {"name": "d", "sha256": "0" * 64, "shape": [1, 8, 8], "levels": 17, "counts": {"train": 3}},
        "versions": {"nelbo": "0.1.0"},
    }
    text = tomli_w.dumps(run)
    tomllib.loads(text)
    student = tomli_w.dumps(run | {"distillation": {"teacher": "t", "steps": 4, "teacher_steps": 8}})
    return [text.encode(), student.encode(), b'[data]\ndata = "digits"\n[training]\nlr = 1e-3\n', b'family = "vae"\n']


def parts() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        made = Checkpoint({"step": 1, "seconds": 1.0}, dict.fromkeys(FILES, WEIGHTS))
        state = (write_checkpoint(Path(folder), made) / "state.json").read_bytes()
    other = safetensors.torch.save({"weight": torch.zeros(2, 2, dtype=torch.bfloat16)})
    return [b"s" + state, b"t" + safetensors.torch.save(WEIGHTS), b"t" + other]


def pictures() -> list[bytes]:
    found = []
    for mode, kind in (
        ("L", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGB", "JPEG"),
        ("RGB", "BMP"),
        ("P", "GIF"),
        ("RGB", "WEBP"),
        ("RGB", "TIFF"),
        ("L", "PPM"),
        *((("RGB", "AVIF"),) if AVIF else ()),
    ):
        stream = io.BytesIO()
        Image.new(mode, (5, 4), 1).save(stream, kind)
        found.append(stream.getvalue())
    return found


LEVELS = np.arange(80, dtype=np.uint8).reshape(5, 1, 4, 4) % 17
NAMED = Table(names=[*"abcdef"], kinds=[Kind(mode="L")], runs=[(0, 5), (-1, 1)], facts={"notes": ["a"], "xz_bytes": 9})


def aparts() -> list[bytes]:
    """Images apart: a file, and pixels."""
    with Image.open(io.BytesIO(pictures()[0])) as image:
        image.load()
        return [encode_apart(5, "f.png", pictures()[0], None), encode_apart(5, "f.png", bytes(9999), image)]


def archives() -> list[bytes]:
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, Header.model_validate(HEADER), np.linspace(-1, 1, 5))
    writer.apart(aparts()[0])
    writer.chunk(plain_chunk(LEVELS, 0))
    writer.finish(NAMED)
    return [stream.getvalue()]


def archive_parts() -> list[bytes]:
    smooth = np.repeat(LEVELS[:, :, :1], 4, 2)
    chunks = [plain_chunk(images, 0) for images in (LEVELS, smooth)]
    return [*(b"c" + each for each in chunks), *(b"a" + each for each in aparts()), b"t" + NAMED.to_bytes()]


@functools.cache
def coding_models() -> dict[bytes, tuple[GenerativeModel, bool]]:
    """Models by name, and whether they code images one by one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"widths": (4, 4), "blocks": 1}
        vae = VAE.from_options(VAEOptions(**small, latent=2).resolved(SHAPE), SHAPE, 17).eval()
        vdm = VDM.from_options(VDMOptions(**small, attention=(), clusters=0).resolved(SHAPE), SHAPE, 17).eval()
    return {b"v": (vae, False), b"e": (vae, True), b"d": (in_steps(vdm, 2, reverse_variance="moments"), False)}


def coded_parts() -> list[bytes]:
    found = []
    for name, (model, each) in coding_models().items():
        coder = coder_for(model, images=LEVELS, each=each)
        payload = ChunkCoder(coder, SHAPE, each).encode(LEVELS, 0, id)
        found.append(name + json.dumps(coder.settings).encode() + b"\n" + payload)
    return found
