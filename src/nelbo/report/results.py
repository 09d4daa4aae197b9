"""What was measured of a run: the bound of images or a family's own measures, and samples. As its JSON has it."""

from __future__ import annotations

import io
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from nelbo.metrics.quality import Modes
from nelbo.options import Shape
from nelbo.report.tables import evaluation_title, measures_table, modes_rows, score_table, score_title
from nelbo.streams import Speaker


class Record(BaseModel):
    """Values that are never changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def as_dict(self) -> dict[str, Any]:
        """What was given, as ``json`` takes it; a field that nothing was said of is left out."""
        return self.model_dump(exclude_unset=True)

    def to_json(self, indent: int | None = None) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict(), indent=indent)


class Term(Record):
    """A mean over images."""

    nats: float
    "Nats per image."
    bits_per_dim: float
    "The same in bits per data dimension."
    stderr: float | None
    "Its standard error over images and noise, in bits/dim; None for a single distinct image."


class Measure(Record):
    """A number in a unit of its own."""

    value: float
    "What was measured."
    stderr: float | None = None
    "Its standard error, in the same unit; None where it is not known."
    estimate: float | None = None
    "Of a bound from below of what is never negative: an estimate below 0, where ``value`` is 0."


class Difference(Record):
    """A run and its baseline on the same images with the same noise. All in bits/dim."""

    bits_per_dim: float
    "The baseline's bound."
    difference: float
    "Bound of the run − bound of the baseline."
    stderr_mc: float
    "Monte-Carlo error of the difference."
    stderr_data: float | None
    "Its sampling error over images."
    stderr: float | None
    "Both together."


class Detection(Record):
    """How well a score tells other images from the run's own."""

    split: str
    "Of the run's own data."
    n: int
    "Images of it."
    bits_per_dim: float
    "Their bound."
    auroc_total: float
    "AUROC by the total, from 0 to 1; below ½ the others look more normal."
    auroc_total_stderr: float | None
    "DeLong's standard error of it."
    auroc_profile: float | None = None
    "AUROC by how the bits lie over t."
    auroc_profile_stderr: float | None = None
    "DeLong's standard error of it."


class Kept(Record):
    """What RUN/scores keeps of one measurement, and what it depends on."""

    family: str
    "Of the run."
    data_sha256: str
    "Hash of the data."
    split: str
    "train, val, test or all."
    n: int
    "Images of it."
    step: int
    "Of the checkpoint."
    weights_sha256: str
    "Hash of the weights."
    model_sha256: str
    "Hash of the settings that decide what the weights mean."
    code: str
    "Version of nelbo, and revision of what measures."
    kind: str
    "``bound``, ``iw_bound``, ``estimate`` or ``none`` of a score; ``samples``; ``profile``."
    terms: dict[str, Term] = {}
    "The terms of the bound; their sum is the total."
    bits_per_dim: float | None = None
    "The total in bits per data dimension; None where there is no bound."
    seconds: float
    "How long it took."
    file: str | None = None
    "Its file in RUN/scores, where it was read from one."


class DiffusionProfile(Kept):
    """Where in t the bits of a diffusion are."""

    pieces: int
    "Pieces of t."
    edges: list[float]
    "Their edges; shape (pieces + 1,)."
    bits: list[float]
    "bits/dim of each piece."
    stderr: list[float]
    "Standard error over images of each, in bits/dim."


class Result(Kept):
    """What a user is shown."""

    data: str
    "Name of the data."
    weights: str
    "``ema`` or ``raw``."
    seed: int
    "Of the noise."
    diagnostics: dict[str, Any] = {}
    "What else the images show of the model, by name."
    warnings: list[str] = []
    "What is wrong with the model, or with the numbers, a line each."

    def text(self) -> tuple[str, Table]:
        """What was measured, on what, in one line; and the numbers."""
        raise NotImplementedError

    def show(self, out: Speaker) -> None:
        """Print it for people: a title, a table, and the warnings."""
        title, table = self.text()
        out.print(title, soft_wrap=True)
        out.print(table)
        for line in self.warnings:
            out.print(line, soft_wrap=True)

    def __str__(self) -> str:
        text = io.StringIO()
        self.show(Speaker(width=200, file=text))
        return text.getvalue().rstrip()

    __repr__ = __str__


class Score(Result):
    """The bound of images, or what a family without a bound measures of them. What is no part of a sum is an extra."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Term]

    n_distinct: int
    "Images of the n that are no copies of others."
    levels: int
    "Values that a pixel can take."
    dims: int
    "D, data dimensions per image."
    form: str | None = None
    "How the bound is written."
    timesteps: int | None = None
    "t per image and replicate."
    k: int | None = None
    "Samples in one logarithm of the importance-weighted form."
    T: int | None = None
    "Steps of the bound, where they are not the model's own."
    replicates: int | None = None
    "Independent estimates per image."
    why: str | None = None
    "Why there is no bound, or why the number is none."
    nats: float | None = None
    "The total in nats per image."
    stderr_mc: float | None = None
    "Monte-Carlo error of the total with these images fixed, in bits/dim."
    stderr_data: float | None = None
    "Its sampling error over images, in bits/dim; None for a single distinct image."
    stderr: float | None = None
    "Both together, in bits/dim; None for a single distinct image."
    evaluations: int | None = None
    "Network evaluations per image, all replicates together."
    measures: dict[str, Measure] = {}
    "What a family without a bound measures instead, each in a unit of its own."
    baseline: Difference | None = None
    "The difference from another run."
    against: Detection | None = None
    "How well the score tells these images from the run's own."
    baseline_run: str | None = None
    "The other run."
    baseline_step: int | None = None
    "Of its checkpoint."
    baseline_weights_sha256: str | None = None
    "Hash of its weights."
    baseline_model_sha256: str | None = None
    "Hash of its settings."
    baseline_code: str | None = None
    "What measured it."
    against_split: str | None = None
    "The split of the run's own data."
    against_sha256: str | None = None
    "Hash of the run's own data."

    @property
    def extras(self) -> dict[str, Term]:
        """What is told with the terms and is no part of their sum, such as ``difference``."""
        return self.__pydantic_extra__

    def text(self) -> tuple[str, Table]:
        """What was scored, on what; and the terms in bits/dim, or a family's own measures."""
        return score_title(self), score_table(self)


class Evaluation(Result):
    """What samples are beside images: distances, modes and copies."""

    samples: int
    "How many were drawn."
    features: str
    "Name of the feature space."
    features_sha256: str
    "Hash of its weights."
    features_data_sha256: str | None = None
    "Hash of the data that it was trained on."
    features_model_sha256: str | None = None
    "Hash of the settings of its network."
    sampling: str
    "How they were drawn, in words."
    sampling_settings: dict[str, Any]
    "How they were drawn: sampler, steps, eta, clip, temperature."
    drawing_seconds: float
    "How long drawing took."
    quality: dict[str, Measure]
    "Fréchet and kernel distance in the features, precision, recall, density, coverage, memorisation."
    modes: Modes | None = None
    "The classes that a classifier of the features sees; None without labels."

    def text(self) -> tuple[str, Table]:
        """What was drawn, and beside what; and each measure with its error."""
        return evaluation_title(self), measures_table({**self.quality, **modes_rows(self.modes)})


class ComparedRun(Record):
    """What a page of several runs says of one."""

    name: str
    "Of its directory."
    family: str
    "Of models."
    data: str
    "Name of its data."
    data_sha256: str
    "Hash of its data."
    shape: Shape
    "(C, H, W) of the images."
    levels: int
    "Values that a pixel can take."
    split: str
    "Whose score is shown."
    step: int
    "Of the latest checkpoint."
    parameters: int
    "Numbers that are trained."
    training_seconds: float
    "How long it was trained."
    score: Score | None
    "Its bound, where that was measured."
    samples: Evaluation | None
    "What its samples are beside images, where that was measured."
    why: str | None
    "Why there is no bound, or why none is shown; None where one is."
    sampling: str
    "How its samples are drawn, in words."
    evaluations_per_sample: int
    "Network evaluations per image."
    curve: list[tuple[float, float]]
    "(seconds, bits/dim on ``val``) of each look while training."
    diffusion_profile: dict[str, list[float]] | None
    "bits/dim of each piece of t, with their edges and errors; None where the bound has no t."


class PairedDifference(Record):
    """A run − another on the same images, image by image, in bits/dim."""

    run: str
    "Name of the run."
    other: str
    "Name of the other."
    n: int
    "Images."
    value: float
    "The mean difference."
    stderr: float | None
    "Its standard error over distinct images, which holds the Monte-Carlo error of both scores; None if not known."


class Comparison(Record):
    """Runs side by side: what ``compare.json`` holds."""

    runs: list[ComparedRun]
    "Each run, in the order that was asked for."
    differences: list[PairedDifference]
    "Of each pair that was scored on the same images."
    unlike: str | None
    "Why the runs are not ranked, where they are of different images."
