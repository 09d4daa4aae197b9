"""Results of score, classify and evaluate, with the fields of their JSON."""

from __future__ import annotations

import io
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from nelbo.metrics.quality import Modes
from nelbo.options import Shape
from nelbo.report.tables import (
    calibration_table,
    classification_table,
    classification_title,
    confusion_table,
    evaluation_title,
    measures_table,
    modes_rows,
    score_table,
    score_title,
)
from nelbo.streams import Speaker


class Record(BaseModel):
    """Immutable values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def as_dict(self) -> dict[str, Any]:
        """The fields that were set, as JSON values."""
        return self.model_dump(exclude_unset=True)

    def to_json(self, indent: int | None = None) -> str:
        """The fields that were set, as one JSON object."""
        return json.dumps(self.as_dict(), indent=indent)


class Term(Record):
    """A mean over images."""

    nats: float
    "Nats per image."
    bits_per_dim: float
    "Bits per data dimension."
    stderr: float | None
    "Its standard error over images and noise, in bits/dim; None for a single distinct image."


class Measure(Record):
    """A number with its own unit."""

    value: float
    "The measured value."
    stderr: float | None = None
    "Its standard error, in the same unit; None if unknown."
    estimate: float | None = None
    "For a lower bound of a divergence: the negative estimate, if ``value`` is 0."


class Difference(Record):
    """A run and its baseline on the same images with the same noise, in bits/dim."""

    bits_per_dim: float
    "The baseline's bound."
    difference: float
    "Bound of the run − bound of the baseline."
    stderr_mc: float
    "Monte Carlo error of the difference."
    stderr_data: float | None
    "Its sampling error over images."
    stderr: float | None
    "Both errors together."


class GivenLabels(Record):
    """The bound of p(x|y) at the images' own labels, and what the label saves, with the same noise."""

    terms: dict[str, Term]
    "The terms of the bound of p(x|y)."
    bits_per_dim: float
    "The bound of p(x|y), in bits per data dimension."
    saved: float
    "Bound of p(x) − bound of p(x|y), in bits/dim."
    saved_bits: float
    "The same in bits per image."
    stderr_mc: float
    "Monte Carlo error of ``saved``, in bits/dim."
    stderr_data: float | None
    "Its sampling error over images."
    stderr: float | None
    "Both errors together."


class Detection(Record):
    """How well a score distinguishes other images from the run's own."""

    split: str
    "The split of the run's own data."
    n: int
    "The number of its images."
    bits_per_dim: float
    "Their bound."
    auroc_total: float
    "AUROC of the total, from 0 to 1; below ½ the others look more normal."
    auroc_total_stderr: float | None
    "DeLong's standard error of it."
    auroc_profile: float | None = None
    "AUROC of the profile over t."
    auroc_profile_stderr: float | None = None
    "DeLong's standard error of it."


class Threshold(Record):
    """A threshold for a stated rate of false alarms, from the run's val split; RUN/scores/threshold.json."""

    false_alarms: float
    "The stated rate: a new normal image is over the threshold with at most this probability."
    bits_per_dim: float
    "The threshold."
    nats: float
    "The same in nats per image."
    rank: int
    "k: the threshold is the k-th largest score of val, so the probability is k/(n + 1)."
    n: int
    "The number of distinct images of val."
    low: float
    "The 2.5% quantile of the rate of this threshold, which has the law Beta(k, n − k + 1)."
    high: float
    "Its 97.5% quantile."
    seed: int
    "The seed of the noise of the scores of val."
    settings: dict[str, Any]
    "Weights, settings and code of these scores; other scores are not compared with this threshold."


class Kept(Record):
    """A stored result in RUN/scores, with everything that it depends on."""

    family: str
    "The family of the run."
    data_sha256: str
    "Hash of the data."
    split: str
    "train, val, test or all."
    n: int
    "The number of images."
    step: int
    "The step of the checkpoint."
    weights_sha256: str
    "Hash of the weights."
    model_sha256: str
    "Hash of the settings that the weights depend on."
    code: str
    "Version of nelbo, and revision of the measuring code."
    kind: str
    "``bound``, ``iw_bound``, ``estimate`` or ``none`` for a score; ``labels``; ``samples``; ``profile``."
    terms: dict[str, Term] = {}
    "The terms of the bound; their sum is the total."
    bits_per_dim: float | None = None
    "The total in bits per data dimension; None without a bound."
    seconds: float
    "The duration of the measurement."
    file: str | None = None
    "Its file in RUN/scores, if it was read from one."


class DiffusionProfile(Kept):
    """The diffusion term for each piece of t."""

    pieces: int
    "The number of pieces of t."
    edges: list[float]
    "Their edges; shape (pieces + 1,)."
    bits: list[float]
    "bits/dim of each piece."
    stderr: list[float]
    "Standard error over images of each piece, in bits/dim."


class Result(Kept):
    """A result for the user."""

    data: str
    "Name of the data."
    weights: str
    "``ema`` or ``raw``."
    seed: int
    "The seed of the noise."
    diagnostics: dict[str, Any] = {}
    "Further facts about the model from the images, by name."
    warnings: list[str] = []
    "Problems of the model or the numbers, one line each."

    def text(self) -> tuple[str, Table]:
        """A title, and a table of the numbers."""
        raise NotImplementedError

    def tables(self) -> list[Table]:
        """Further tables; by default none."""
        return []

    def show(self, out: Speaker) -> None:
        """Print a title, the tables, and the warnings."""
        title, table = self.text()
        out.print(title, soft_wrap=True)
        for each in (table, *self.tables()):
            out.print(each)
        for line in self.warnings:
            out.print(line, soft_wrap=True)

    def __str__(self) -> str:
        text = io.StringIO()
        self.show(Speaker(width=200, file=text))
        return text.getvalue().rstrip()

    __repr__ = __str__


class OfImages(Result):
    """What was measured of images."""

    n_distinct: int
    "The number of distinct images among the n."
    levels: int
    "The number of values a pixel can take."
    dims: int
    "D, data dimensions per image."


class Coded(Record):
    """A compressed file, beside a score of the same split."""

    file: str
    "Its path."
    images: int
    "The number of images, the first ones of the split."
    steps: int | None = None
    "K, of a diffusion model."
    bits_per_dim: float
    "The whole file, in bits/dim."


class Score(OfImages):
    """The bound of images, or a family's own measures; extra fields are not in the sum of the terms."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Term]

    form: str | None = None
    "The form of the bound."
    timesteps: int | None = None
    "t per image and replicate."
    k: int | None = None
    "Samples in one logarithm of the importance-weighted form."
    T: int | None = None
    "Steps of the bound, if not the model's own."
    spacing: str | None = None
    "``best`` if the steps have the lowest bound on val."
    reverse_variance: str | None = None
    "σ² of the steps, if not the model's own."
    gammas: list[float] | None = None
    "γ of the latents, if the steps were chosen."
    replicates: int | None = None
    "Independent estimates per image."
    why: str | None = None
    "Why there is no bound, or why the number is not a bound."
    nats: float | None = None
    "The total in nats per image."
    stderr_mc: float | None = None
    "Monte Carlo error of the total for these images, in bits/dim."
    stderr_data: float | None = None
    "Its sampling error over images, in bits/dim; None for a single distinct image."
    stderr: float | None = None
    "Both errors together, in bits/dim; None for a single distinct image."
    evaluations: int | None = None
    "Network evaluations per image, over all replicates."
    measures: dict[str, Measure] = {}
    "The measures of a family without a bound, each with its own unit."
    given_labels: GivenLabels | None = None
    "The bound of p(x|y), for a model of labels, if the data have labels of its classes."
    labels_sha256: str | None = None
    "Hash of the labels."
    baseline: Difference | None = None
    "The difference from another run."
    against: Detection | None = None
    "How well the score distinguishes these images from the run's own."
    baseline_run: str | None = None
    "The baseline."
    baseline_step: int | None = None
    "The step of its checkpoint."
    baseline_weights_sha256: str | None = None
    "Hash of its weights."
    baseline_model_sha256: str | None = None
    "Hash of its settings."
    baseline_code: str | None = None
    "The code that measured it."
    against_split: str | None = None
    "The split of the run's own data."
    against_sha256: str | None = None
    "Hash of the run's own data."
    threshold: Threshold | None = None
    "The run's threshold, if the images were compared with it."
    over: int | None = None
    "The number of images over it."
    page: str | None = None
    "The path of the page of ``worst``."
    files: list[Coded] = []
    "Compressed files of the same split that need these weights, where they were written."

    @property
    def extras(self) -> dict[str, Term]:
        """The extra numbers, which are not in the sum of the terms, such as ``difference``."""
        return self.__pydantic_extra__

    def text(self) -> tuple[str, Table]:
        """A title, and a table of the terms in bits/dim, or of a family's own measures."""
        return score_title(self), score_table(self)


class Reliability(Record):
    """The images whose label has a stated probability in (low, high]."""

    low: float
    "The lower end."
    high: float
    "The upper end."
    n: int
    "The number of images."
    stated: float
    "The mean of their stated probabilities."
    right: float
    "The share of them whose label is right."


class Classification(OfImages):
    """Labels of images by the bound of each label."""

    labels_sha256: str | None = None
    "Hash of the labels."
    classes: list[str]
    "The names of the classes."
    prior: list[float]
    "P(y): the share of each class in the training images."
    evaluations: int
    "The largest number of network evaluations of an image for one label."
    matrices: str
    "What the network multiplied matrices in: float32 or bfloat16."
    evaluations_per_image: float
    "The mean number of network evaluations of an image, over all labels."
    undecided: float
    "The share of images with another label within two standard errors of the leader."
    right: Measure | None = None
    "The share of images whose label is right; None without labels."
    right_of_decided: Measure | None = None
    "The same of the decided images; None without labels, or without decided images."
    log_loss: Measure | None = None
    "The mean of −ln P(y|x) at the right label, in nats; None without labels."
    confusion: list[list[int]] | None = None
    "Images of each class (row) by their label (column); the last column has the undecided ones. None without labels."
    calibration: list[Reliability] | None = None
    "Bins of the stated probability of the label; None without labels."
    calibration_error: float | None = None
    "The mean of the absolute difference of stated and right, over images; positive also for right probabilities."

    def text(self) -> tuple[str, Table]:
        """A title, and a table of the shares."""
        return classification_title(self), classification_table(self)

    def tables(self) -> list[Table]:
        """The confusions, without the rows and columns of other classes, and the calibration."""
        return [] if self.confusion is None else [confusion_table(self), calibration_table(self)]


class Evaluation(Result):
    """Samples compared with images: distances, modes and copies."""

    samples: int
    "The number of samples."
    features: str
    "Name of the feature space."
    features_sha256: str
    "Hash of its weights."
    features_data_sha256: str | None = None
    "Hash of the data that it was trained on."
    features_model_sha256: str | None = None
    "Hash of the settings of its network."
    sampling: str
    "A description of the sampling."
    sampling_settings: dict[str, Any]
    "The settings of sampling: sampler, steps, eta, clip, temperature."
    spacing: str | None = None
    "``best`` if the steps have the lowest bound on val."
    autoguidance: int | None = None
    "Step of the checkpoint away from which guidance went."
    drawing_seconds: float
    "The duration of sampling."
    quality: dict[str, Measure]
    "Fréchet and kernel distance in the features, precision, recall, density, coverage, memorisation."
    modes: Modes | None = None
    "The samples' classes by the features' classifier; None without labels."

    def text(self) -> tuple[str, Table]:
        """A title, and a table of each measure with its error."""
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
