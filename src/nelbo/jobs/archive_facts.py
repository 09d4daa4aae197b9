"""The facts of a compressed file, from the file alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from nelbo.codec import chunks
from nelbo.codec.archive import Archive
from nelbo.codec.chunks import CHAIN, EACH, PLAIN, Head
from nelbo.codec.container import APART, CHUNK, GOLDEN, HEADER, TABLE, is_container
from nelbo.codec.container import HEAD as BLOCK
from nelbo.errors import InputError
from nelbo.report.compressed import NO_IMAGES, Bounds, Compression, printable
from nelbo.report.results import Coded, Score

NAMES = {HEADER: "header", GOLDEN: "golden", TABLE: "table", APART: "apart"}
SHOWN = 3
"""Names that are shown."""
MOST_FILES = 8
"""Files beside a score."""
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Facts(BaseModel):
    """What was measured when a file was made, as :class:`~nelbo.report.compressed.Compression` has it."""

    steps: int | None = None
    weights_bytes: Bytes | None = None
    given_bytes: Bytes | None = None
    xz_bytes: Bytes | None = None
    encode_seconds: Seconds | None = None
    check_seconds: Seconds | None = None
    notes: list[str] = Field(default_factory=list)
    bounds: Bounds | None = None


def is_archive(path: Path) -> bool:
    """Whether a path is a compressed file, by its first or last bytes."""
    return path.is_file() and is_container(path)


def files_of(score: Score, paths: Sequence[Path]) -> list[Coded]:
    """The compressed files that need the weights of a score, and hold images of its split; the latest ones.

    Args:
        score: the score.
        paths: of the files, as the run has them: what is no such file any more is left out.
    """
    found = []
    for path in paths[-MOST_FILES:]:
        try:
            if not is_archive(path):
                continue
            facts = facts_of(path)
        except (InputError, OSError):
            continue
        same = (facts.weights_sha256, facts.data, facts.split) == (score.weights_sha256, score.data, score.split)
        if same and facts.bits_per_dim is not None:
            name, bits = str(printable(path)), facts.bits_per_dim
            found.append(Coded(file=name, images=facts.images, steps=facts.steps, bits_per_dim=bits))
    return found


def facts_of(path: Path) -> Compression:
    """The facts of a compressed file.

    Raises:
        InputError: it is not such a file, or no image can be decoded.
    """
    with Archive(path) as archive:
        header, table = archive.header, archive.table
        found = archive.chunks()
        heads = [head for head, _ in found]
        parts = parts_of(archive, [(head, block.length) for head, block in found])
        missing = header.count - sum(head.n for head in heads)
        whole = not missing and not archive.problems
        problems = list(archive.problems)
        if missing > 0:
            problems.append(f"{missing:,} of {header.total:,} images cannot be decoded")
        if (damaged := header.apart - len(archive.apart())) > 0:
            problems.append(f"{damaged:,} of {header.apart:,} images apart cannot be decoded")
        first = sum(head.plain for head in heads if head.kind == CHAIN)
        alone = sum(head.n for head in heads if head.kind == PLAIN)
        by_model = sum(head.n for head in heads) - first - alone
        size = archive.container.size
        own = {
            **{name: getattr(header, name) for name in ("nelbo", "family", "weights", "weights_sha256", "step")},
            "shape": header.shape,
            "levels": header.levels,
            "each": any(head.kind == EACH for head in heads),
            "data": table.data,
            "split": table.split,
            "images": header.total,
            "by_model": by_model,
            "plain": first + alone,
            "apart": header.apart,
            "chunks": len(heads),
            "bytes": size,
            "parts": parts,
            "classes": table.classes,
            "names": (table.names or [])[:SHOWN],
            "problems": problems,
            **(rates(math.prod(header.shape), by_model, first, alone, parts) if whole else {"bits_per_dim": None}),
            **measured(table.facts, header.count, size - parts.get("apart", 0) if whole else None),
        }
    return Compression(file=str(path), **own)


def parts_of(archive: Archive, heads: list[tuple[Head, int]]) -> dict[str, int]:
    """Bytes by part; those of a damaged block among them."""
    found: Counter[str] = Counter()
    for head, length in heads:
        inside = length - chunks.HEAD.size
        first = head.size if head.kind == CHAIN else 0
        found["initial"] += first
        found["plain" if head.kind == PLAIN else "model"] += inside - first
        found["index"] += chunks.HEAD.size + BLOCK.size
    for block in archive.container.blocks:
        if block.tag in NAMES:
            found[NAMES[block.tag]] += block.length + BLOCK.size
    damaged = sum(block.length + BLOCK.size for block in archive.container.of(CHUNK))
    damaged -= sum(length + BLOCK.size for _, length in heads)
    if damaged:
        found["damaged"] = damaged
    found["index"] += archive.container.size - sum(found.values())
    return {name: size for name, size in found.items() if size}


def rates(each: int, by_model: int, first: int, alone: int, parts: dict[str, int]) -> dict[str, float | None]:
    """Bits per dimension of a whole file and of its parts.

    Args:
        each: dimensions of an image.
        by_model: the number of images that the model codes.
        first: those that fill the initial bits of chunks.
        alone: those of chunks without the model.
        parts: bytes by part.
    """
    dims = each * (by_model + first + alone)
    if not dims:
        return {"bits_per_dim": None}
    bits = {name: 8 * size for name, size in parts.items() if name != "apart"}
    container = sum(bits.get(name, 0) for name in NO_IMAGES)
    found: dict[str, float | None] = {
        "bits_per_dim": sum(bits.values()) / dims,
        "container_bits_per_dim": container / dims,
    }
    if by_model:
        model = bits.get("model", 0) / (each * by_model)
        found["model_bits_per_dim"] = model
        found["initial_bits_per_dim"] = (bits.get("initial", 0) - model * each * first) / dims
        found["plain_bits_per_dim"] = (bits.get("plain", 0) - model * each * alone) / dims
    return found


def measured(stored: dict[str, Any], count: int, size: int | None) -> dict[str, Any]:
    """What was measured when the file was made; nothing, if these are not such values.

    Args:
        stored: name → value.
        count: the number of images with levels.
        size: bytes of the file without images apart; None of a damaged one.
    """
    try:
        facts = Facts.model_validate(stored)
    except ValidationError:
        return {}
    found = facts.model_dump(exclude_none=True)
    xz, weights = facts.xz_bytes, facts.weights_bytes
    if size is not None and xz and weights and count and xz > size:
        found["pays_after"] = math.ceil(weights * count / (xz - size))
    return found
