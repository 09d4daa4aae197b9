"""The facts of a compressed file, with the fields of their JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from nelbo.options import Shape
from nelbo.report.results import Record
from nelbo.units import uniform_bits


def printable(value: Any) -> Any:
    """Texts without control characters, which could be commands to a terminal.

    >>> printable(["a\\x1b[2Jb\\n", "é"])
    ['a\\\\x1b[2Jb\\\\n', 'é']
    """
    if isinstance(value, list):
        return [printable(each) for each in value]
    return "".join(sign if sign.isprintable() or is_surrogate(sign) else repr(sign)[1:-1] for sign in str(value))


def number(count: int, name: str) -> str:
    """A number of things.

    >>> number(1, "chunk"), number(1200, "chunk")
    ('1 chunk', '1,200 chunks')
    """
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def is_surrogate(sign: str) -> bool:
    """Whether this stands for a byte of a file name that is no text."""
    return "\udc80" <= sign <= "\udcff"


NO_IMAGES = ("header", "golden", "table", "index")
"""The parts of a file that hold no images."""


class Bounds(Record):
    """Bounds of the images in a file, each with the Monte Carlo error for these images, in bits/dim."""

    n: int
    "The number of images."
    in_steps: Annotated[float, Field(gt=0)] | None = None
    "The bound in the steps of the file; None for a model without steps."
    in_steps_stderr: float | None = None
    "Its error."
    own: Annotated[float, Field(gt=0)]
    "The run's own bound: of a vdm in continuous time."
    own_stderr: float
    "Its error."


class Compression(Record):
    """A compressed file."""

    file: str
    "Its path."
    nelbo: str
    "The version that made it."
    family: str
    "The family of the run."
    weights: str
    "``ema`` or ``raw``."
    weights_sha256: str
    "Hash of the weights, which decoding needs."
    step: int
    "The step of their checkpoint."
    steps: int | None = None
    "K, of a diffusion model."
    each: bool
    "Whether each image can be decoded alone."
    data: str | None = None
    "The name of the data; None for files and arrays."
    split: str | None = None
    "Their split."
    images: int
    "All images."
    by_model: int
    "Those that the model codes."
    plain: int
    """Those of the run's shape that are coded without the model: the first of each chunk, to fill its initial bits, and
    whole chunks that the model would make larger."""
    apart: int
    "Images that do not fit the run."
    shape: Shape
    "(C, H, W) of the run."
    levels: int
    "The number of values a pixel can take."
    chunks: int
    "Parts that are decoded independently."
    bytes: int
    "The whole file."
    parts: dict[str, int]
    """Bytes by part: model, initial (the first images of chunks), plain (whole chunks without the model), apart, table
    (names, labels), header, index."""
    bits_per_dim: float | None
    "All bytes but those of images apart, in bits/dim of the images of the run's shape; None of a damaged file."
    model_bits_per_dim: float | None = None
    "What an image takes that the model codes."
    initial_bits_per_dim: float | None = None
    "What filling the initial bits costs: these images take more than others. In bits/dim of all images."
    plain_bits_per_dim: float | None = None
    "What whole chunks without the model take more than the others, in bits/dim of all images."
    container_bits_per_dim: float | None = None
    "Header, golden vectors, table and index, in bits/dim of all images."
    bounds: Bounds | None = None
    "The bounds of the images, if they were measured."
    given_bytes: int | None = None
    "Bytes of the files that were given."
    xz_bytes: int | None = None
    "Bytes of xz of all levels of the images of the run's shape."
    weights_bytes: int | None = None
    "Bytes of the weights, which decoding needs."
    pays_after: int | None = None
    "The number of such images from which file and weights are smaller than xz; None if never."
    encode_seconds: float | None = None
    "Processor seconds of all encoding."
    check_seconds: float | None = None
    "Processor seconds of all checking, which is decoding."
    seconds: float | None = None
    "Seconds of the command."
    classes: list[str] = Field(default_factory=list)
    "The names of the labels."
    names: list[str] = Field(default_factory=list)
    "The first names."
    notes: list[str] = Field(default_factory=list)
    "What the user should know, one line each."
    problems: list[str] = Field(default_factory=list)
    "What is damaged."

    def lines(self) -> dict[str, Any]:
        """The facts for the terminal: name → value."""
        shape = "×".join(map(str, self.shape))
        steps = "" if self.steps is None else f" in {self.steps} steps"
        counts = {"by the model": self.by_model, "plain": self.plain, "apart": self.apart}
        shares = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        found: dict[str, Any] = {
            "file": self.file,
            "bytes": f"{self.bytes:,}",
            "made by": f"nelbo {self.nelbo}, {self.family}{steps}, step {self.step:,}, {self.weights} weights "
            f"{self.weights_sha256[:12]}",
            "images": f"{self.images:,} of {shape}, {self.levels} levels"
            + ("" if self.data is None else f", {self.data} {self.split}")
            + f" ({shares}), {number(self.chunks, 'chunk')}",
            "parts in bytes": ", ".join(f"{name} {size:,}" for name, size in self.parts.items()),
        }
        if self.classes:
            found["classes"] = self.classes
        if self.names:
            found["names"] = ", ".join(self.names) + (", …" if self.images > len(self.names) else "")
        found |= {name: "  ".join(value) for name, value in self.rates().items()}
        found |= self.sizes()
        found["notes"] = [*self.notes, *(f"damaged: {problem}" for problem in self.problems)]
        return {name: printable(value) for name, value in found.items()}

    def rates(self) -> dict[str, tuple[str, str]]:
        """Name → bits/dim, and what is added to the line before."""
        if self.bits_per_dim is None:
            return {}
        rows: list[tuple[str, float, str]] = []
        if self.bounds is not None:
            rows.append(("own bound", self.bounds.own, f"± {self.bounds.own_stderr:.4f}"))
            if self.bounds.in_steps is not None:
                rows.append(("bound in steps", self.bounds.in_steps, f"± {self.bounds.in_steps_stderr or 0.0:.4f}"))
        if self.model_bits_per_dim is not None:
            rows.append(("by the model", self.model_bits_per_dim, ""))
            rows.append(("with initial bits", self.model_bits_per_dim + (self.initial_bits_per_dim or 0.0), ""))
            if self.parts.get("plain"):
                before = self.bits_per_dim - (self.container_bits_per_dim or 0.0)
                rows.append(("with plain chunks", before, ""))
        rows.append(("whole file", self.bits_per_dim, f"of {uniform_bits(self.levels):g} without compression"))
        found, last = {}, None
        for name, value, more in rows:
            change = "" if not last else f"{100 * (value / last - 1):+.2f}%"
            found[name] = (f"{value:.4f} bits/dim", " ".join(filter(None, (change, more))))
            last = value
        return found

    def sizes(self) -> dict[str, str]:
        """The file beside the given files, xz, and the weights."""
        found = {}
        inside = self.bytes - self.parts.get("apart", 0)
        if self.given_bytes:
            found["given files"] = (
                f"{self.given_bytes:,} bytes: the compressed file has {self.bytes / self.given_bytes:.1%}"
            )
        if self.xz_bytes:
            found["xz of all pixels"] = f"{self.xz_bytes:,} bytes: the compressed file has {inside / self.xz_bytes:.1%}"
        if self.weights_bytes:
            pays = "never" if self.pays_after is None else f"after {number(self.pays_after, 'image')}"
            found["weights"] = f"{self.weights_bytes:,} bytes, which decoding needs; beside xz they pay {pays}"
        coded = self.images - self.apart
        speeds = [
            f"{coded / seconds:.1f} images in each processor second of {what}"
            for what, seconds in (("encoding", self.encode_seconds), ("decoding, for the check", self.check_seconds))
            if seconds
        ]
        if speeds:
            found["speed"] = ", ".join(speeds)
        if self.seconds:
            found["seconds"] = f"{self.seconds:.1f}"
        return found
