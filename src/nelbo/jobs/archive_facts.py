"""The facts of a compressed file, from the file alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from nelbo.codec import chunks
from nelbo.codec.archive import Archive
from nelbo.codec.chunks import CHAIN, EACH, Head
from nelbo.codec.container import APART, CHUNK, GOLDEN, HEADER, TABLE, is_container
from nelbo.codec.container import HEAD as BLOCK
from nelbo.report.compressed import Bounds, Compression

NAMES = {HEADER: "header", GOLDEN: "golden", TABLE: "table", APART: "apart"}
SHOWN = 3
"""Names that are shown."""
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
        problems = list(archive.problems)
        if missing > 0:
            problems.append(f"{missing:,} of {header.total:,} images cannot be decoded")
        if (damaged := header.apart - len(archive.apart())) > 0:
            problems.append(f"{damaged:,} of {header.apart:,} images apart cannot be decoded")
        plain = sum(head.plain for head in heads)
        size = archive.container.size
        own = {
            **{name: getattr(header, name) for name in ("nelbo", "family", "weights", "weights_sha256", "step")},
            "shape": header.shape,
            "levels": header.levels,
            "each": any(head.kind == EACH for head in heads),
            "data": table.data,
            "split": table.split,
            "images": header.total,
            "by_model": sum(head.n for head in heads) - plain,
            "plain": plain,
            "apart": header.apart,
            "chunks": len(heads),
            "bytes": size,
            "parts": parts,
            "classes": table.classes,
            "names": (table.names or [])[:SHOWN],
            "problems": problems,
            **rates(header.count * math.prod(header.shape), header.count - missing, plain, parts, size),
            **measured(table.facts, header.count, size - parts.get("apart", 0)),
        }
    return Compression(file=str(path), **own)


def parts_of(archive: Archive, heads: list[tuple[Head, int]]) -> dict[str, int]:
    """Bytes by part; those of a damaged block among them."""
    found: Counter[str] = Counter()
    for head, length in heads:
        plain = 0 if head.kind == EACH else head.size if head.kind == CHAIN else length - chunks.HEAD.size
        found["plain"] += plain
        found["model"] += length - chunks.HEAD.size - plain
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


def rates(dims: int, known: int, plain: int, parts: dict[str, int], size: int) -> dict[str, float | None]:
    """Bits per dimension of the file and of its parts.

    Args:
        dims: of all images with levels.
        known: the number of these images that can be decoded.
        plain: those that are coded without the model.
        parts: bytes by part.
        size: bytes of the file.
    """
    if not dims or not known:
        return {"bits_per_dim": None}
    each = dims / known
    container = sum(parts.get(name, 0) for name in ("header", "golden", "table", "index"))
    found: dict[str, float | None] = {
        "bits_per_dim": 8 * (size - parts.get("apart", 0)) / dims,
        "container_bits_per_dim": 8 * container / dims,
    }
    if known > plain:
        model = 8 * parts.get("model", 0) / ((known - plain) * each)
        found["model_bits_per_dim"] = model
        found["initial_bits_per_dim"] = (8 * parts.get("plain", 0) - model * plain * each) / dims
    return found


def measured(stored: dict[str, Any], count: int, size: int) -> dict[str, Any]:
    """What was measured when the file was made; nothing, if these are not such values.

    Args:
        stored: name → value.
        count: the number of images with levels.
        size: bytes of the file without images apart.
    """
    try:
        facts = Facts.model_validate(stored)
    except ValidationError:
        return {}
    found = facts.model_dump(exclude_none=True)
    xz, weights = facts.xz_bytes, facts.weights_bytes
    if xz and weights and count and xz > size:
        found["pays_after"] = math.ceil(weights * count / (xz - size))
    return found
