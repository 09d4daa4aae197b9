"""The options of all families and commands, each with its default. They are defined only here.

The command line, a ``--config`` file, ``RUN/config.toml`` and the Python calls all use these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nelbo.errors import InputError

Shape = tuple[int, int, int]
"""(C, H, W): channels, rows and columns of an image."""
Fit = Literal["crop", "pad", "resize"]
SplitBy = Literal["hash", "rank"]
Spacing = Literal["even", "best"]
Variance = Literal["beta", "beta_tilde", "learned", "moments"]
Layout = Literal["nhw", "nhwc", "nchw", "hwc", "chw"]
AtLeastOne = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(description="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Weights = Annotated[str, Field(description="ema (the moving average) or raw.")]


class Options(BaseModel):
    """Settings: immutable fields with defaults; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


IN_FILES = Field(json_schema_extra={"in_files": True})
"""Marks a setting that only files can have; the command line has no option for it."""


class FamilyOptions(Options):
    """The settings of a family of models."""

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The settings with every value that depends on the images' shape (C, H, W)."""
        return self


LABEL_DROPOUT = 0.1
"""The default of the fraction of training images whose label is hidden."""


class LabelOptions(FamilyOptions):
    """The settings of labels, of families that can also learn p(x|y)."""

    labels: bool = False
    "Learn p(x|y), with y the label of an image in the data, and p(x), by hiding the label of some images."
    label_dropout: Annotated[float, Field(gt=0, lt=1)] | None = None
    "Fraction of the training images whose label is hidden; default 0.1."
    classes: Annotated[tuple[str, ...], IN_FILES] = ()
    "The names of the classes, with labels."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The settings with every value that depends on the data.

        Raises:
            InputError: a fraction of hidden labels is given, but no labels; or the names of the classes are missing.
        """
        if self.label_dropout is not None and not self.labels:
            raise InputError("label_dropout", "hides labels, but the model has none; add `labels`, or leave it out")
        if self.labels != bool(self.classes):
            raise InputError(
                "classes" if self.classes else "labels", "needs `labels` and `classes`, the names of these"
            )
        dropout = (self.label_dropout or LABEL_DROPOUT) if self.labels else None
        return super().resolved(shape).model_copy(update={"label_dropout": dropout})

    @property
    def of_labels(self) -> LabelKeywords:
        """The arguments of a model with these labels."""
        return {"classes": self.classes, "label_dropout": self.label_dropout or LABEL_DROPOUT}


class LabelKeywords(TypedDict, total=False):
    """The arguments of a model of labels.

    Attributes:
        classes: the names of the K classes; none for a model without labels.
        label_dropout: the fraction of training images whose label is hidden.
    """

    classes: Sequence[str]
    label_dropout: float


class NetworkOptions(FamilyOptions):
    """The settings of nelbo's own networks; a family adds its own."""

    revision: Annotated[int, Field(ge=1, le=1, json_schema_extra={"in_files": True})] = 1
    "Revision of the architecture. Weights only fit their own revision, so every revision stays in the code."


class DataOptions(Options):
    """Options for reading images."""

    data: str = "digits"
    "digits, mnist, fashion-mnist or cifar10, a folder of images, a .npy, .npz or IDX file, hf:NAME, or READER:NAME."
    size: Annotated[str, Field(pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")] | None = None
    "Height and width of the images, as HxW; needs --fit if an image has another size."
    fit: Fit | None = None
    "How an image of another size is converted to --size."
    channels: Annotated[int, Field(ge=1, le=4)] | None = None
    "Convert every image to this many channels."
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    "The number of values a pixel can take, if the data do not state it."
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    "Fraction of images held out for test, and again for val, if the data have no such splits."
    skip_bad: bool = False
    "Skip images that cannot be read, instead of stopping."
    binarize: bool = False
    "Draw each pixel as 0 or 1 with its level as probability: training images at every step, others once."

    layout: Layout | None = None
    "The axes of a .npy or .npz with an ambiguous shape: n images, h rows, w columns, c channels."

    @field_validator("size", mode="before")
    @classmethod
    def _in_words(cls, size: Any) -> Any:
        """(H, W) as HxW."""
        return "x".join(map(str, size)) if isinstance(size, tuple | list) else size

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as (H, W)."""
        if self.size is None:
            return None
        height, width = self.size.split("x")
        return int(height), int(width)


class RunDataOptions(DataOptions):
    """Data options in a run's record."""

    split_by: Annotated[SplitBy, IN_FILES] = "hash"
    "How missing splits are made: hash keeps each image in its split; rank is the rule of format 1."


class TrainingOptions(Options):
    """Options of the training."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    "Minutes of training; default 10, without --steps."
    steps: AtLeastOne | None = None
    "Number of training steps, instead of minutes; such a run is reproducible bit by bit."
    seed: Seed = 0
    "Seed of all random numbers in the run."
    batch_size: AtLeastOne = 32
    "Images per step."
    accumulate: AtLeastOne = 1
    "Parts of each batch, computed one after another: the same gradient in the memory of one part."
    optimizer: Literal["muon", "adamw"] = "muon"
    "Optimiser of matrices and convolutions; AdamW trains everything else, and both players of a gan."
    lr: Annotated[float, Field(gt=0)] = 2e-3
    "Largest learning rate of both optimisers. With --resume it may change."
    warmup: Annotated[int, Field(ge=0)] = 100
    "Steps over which the learning rate rises from 0."
    decay: Annotated[float, Field(ge=0, le=1)] = 0.6
    "Last fraction of the run, over which the learning rate decreases to 0."
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    "Decoupled weight decay, for weights of two or more dimensions."
    clip: Annotated[float, Field(gt=0)] = 1.0
    "Largest norm of a gradient; a larger gradient is scaled down."
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    "Decay of the weights' moving average, after its warm-up."
    augment: Literal["none", "flip"] = "none"
    "flip mirrors each training image, left to right, with probability 1/2 at every step."
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    "Precision of the network in training; auto uses bf16 if the machine supports it. 'nelbo score' always uses fp32."
    compile: Literal["auto", "on", "off"] = "auto"
    "Compile the network of a ddpm or vdm (torch.compile); auto: on CUDA, in runs that are long enough."
    checkpoint_activations: bool = False
    "Compute the activations of each block again in the backward pass: less memory, more time."
    shard: bool = False
    "Shard the weights between processes (FSDP), for models that do not fit on one device."
    device: str = "auto"
    "cpu, cuda, cuda:1, mps, …; auto uses CUDA if available, else mps (in fp32), else the CPU."
    tensorboard: bool = False
    "Also write the metrics for TensorBoard; needs the extra nelbo[tensorboard]."


class DistillOptions(Options):
    """Options of ``nelbo distill``: the student and its training."""

    steps: AtLeastOne = 4
    "Steps from noise to image: network evaluations per image."
    teacher_steps: AtLeastOne | None = None
    "Steps of the teacher, a multiple of --steps; default: about 64."
    guidance: Annotated[float, Field(ge=0)] | None = None
    "Guidance of the teacher by cluster and label, which the student learns; default: 2 if the run has either, else 1."
    out: Path | None = None
    "The new run directory; default: runs/NAME-4-steps."
    resume: bool = False
    "Continue the student in --out from its last checkpoint."
    minutes: Annotated[float, Field(gt=0)] | None = None
    "Minutes of training; default 5, without --train-steps."
    train_steps: AtLeastOne | None = None
    "Number of training steps, instead of minutes."
    lr: Annotated[float, Field(gt=0)] | None = None
    "Largest learning rate; default: that of the run, like all other training options."
    seed: Seed | None = None
    "Seed of all random numbers; default: that of the run."
    device: Device | None = None
    "cpu, cuda, cuda:1, mps, …; default: that of the run."


class FeaturesOptions(Options):
    """Options of ``nelbo features``."""

    out: Path | None = None
    "A new folder for the features; default: a folder in your cache, where other commands find it."
    epochs: AtLeastOne = 8
    "Passes over the training images."
    seed: Seed = 0
    "Seed of the initial weights and of the order."
    again: bool = False
    "Train again, even if the cache has these features."
    device: Device = "auto"


class SamplingOptions(Options):
    """Options of sampling; the family chooses defaults for those left out."""

    sampler: str | None = None
    """ancestral, ddim, or one of higher order: dpm++, unipc or heun. Default: unipc up to 20 steps, else ddim."""
    steps: AtLeastOne | None = None
    """Steps of each image; default 20, of ddim 50, of ancestral all. For a gan: length of the
    Metropolis–Hastings chain of G(z) for each image; default 1."""
    spacing: Spacing | None = None
    "best: ancestral in the --steps with the lowest bound on val, with the noise that this bound has."
    eta: float | None = None
    "DDIM's η, from 0 (deterministic) to 1 (as random as ancestral)."
    clip: bool = True
    "Clamp the predicted image to the range of pixels while sampling."
    temperature: Annotated[float, Field(ge=0)] | None = None
    """For ae, vae, hvae and gan: standard deviation of z, relative to the prior's; below 1 images are more typical and
    less varied."""
    label: str | None = None
    """For a run with labels: the name of a class, several separated by commas, or all, an equal number of each.
    Default: images of p(x), whose label is unknown."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """With clusters or --label: g of ε̂(∅) + g (ε̂ − ε̂(∅)), away from images of other clusters and classes if above 1.
    Default 2; 1 draws from the law that score scores."""
    guidance_interval: str | None = None
    "LOW,HIGH: the γ = −ln SNR with guidance; a negative LOW needs an =. Default: all."
    autoguidance: AtLeastOne | None = None
    "Step of an earlier checkpoint of the run: guidance goes away from its ε̂ of the same cluster and label."


class SampleOptions(SamplingOptions):
    """Options of ``nelbo sample``."""

    out: Path | None = None
    """A .png (one grid), .gif (the denoising), .npz (the exact levels) or a folder of PNGs; it must not exist.
    Default: a new grid in RUN/samples."""
    real: bool = False
    "Add real images beside the samples, evenly from all classes of the test split, by the seed."
    seed: Seed = 0
    "Image i of a seed is always the same image."
    weights: Weights = "ema"
    device: Device = "auto"
    batch_size: AtLeastOne = 64
    "Images per batch; affects only speed and memory."


class EditOptions(Options):
    """Options of ``nelbo edit``; an option of another verb is refused."""

    mask: Path | None = None
    "inpaint: an image of the size of IMAGE. Its bright pixels, from half on, are drawn; the others are seen."
    factor: Annotated[int, Field(ge=2)] | None = None
    "upscale: height of the run's images over that of IMAGE; default: from their sizes."
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5
    "vary: S. The image is noised to t = S, and drawn again; 1 keeps almost nothing of it."
    frames: Annotated[int, Field(ge=2)] = 8
    "interpolate: images of the strip or animation, with both ends."
    label: str | None = None
    """For a run with labels: the class of the result; vary and invert change the class of an image and keep the rest.
    Default: the label is unknown."""
    source_label: str | None = None
    "invert, with --label: the class of IMAGE, whose latent is drawn again as --label. Default: it is unknown."
    method: str | None = None
    """inpaint, upscale: replacement, guidance, moments or particles, or e.g. particles(particles=64). Default: moments.
    docs/editing.md has their errors."""
    steps: AtLeastOne | None = None
    "Steps from noise to image; for a vae or hvae, sweeps of its Markov chain, default 100. Default 50."
    fit: Fit | None = None
    "How an image of another size is converted to the run's."
    clip: bool = True
    "inpaint, upscale, vary: clamp the predicted image to the range of pixels."
    out: Path | None = None
    """A .png (a row for each image: the given one, then those drawn), .gif (the steps, or the way from A to B), .npz
    (the exact levels, given and drawn) or a folder of PNGs; it must not exist. Default: a new grid in RUN/samples."""
    seed: Seed = 0
    "Drawing j of image i has the same noise, whatever their numbers."
    weights: Weights = "ema"
    device: Device = "auto"
    batch_size: AtLeastOne = 64
    "Images per batch; affects only speed and memory. Particles count as images."


class MeasuringOptions(Options):
    """Options of every measurement of a run."""

    split: str = "test"
    "train, val or test."
    seed: Seed = 0
    "Seed of the noise."
    weights: Weights = "ema"
    device: Device = "auto"
    batch_size: AtLeastOne | None = None
    "Images per batch; affects only speed and memory. Default: the fastest for the device."
    again: bool = False
    "Measure again, even if RUN/scores has the result."


class ImagesOptions(MeasuringOptions):
    """Options of every measurement of single images."""

    limit: AtLeastOne | None = None
    "Use only this number of images, the first ones."


class ClassifyOptions(ImagesOptions):
    """Options of ``nelbo classify``."""

    evaluations: Annotated[int, Field(ge=2)] = 32
    "Largest number of network evaluations of an image for one label, in pairs; clearly worse labels have fewer."
    per_image: Path | None = None
    """Write every image's path (or row in its array), label, split, predicted label with its probability, and the
    runner-up to this CSV file."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    "Precision of the network; auto uses bf16 if the machine supports it. Its errors count in the standard errors."


class ScoreOptions(ImagesOptions):
    """Options of ``nelbo score``."""

    form: str | None = None
    """Form of the bound; default: the family's first. ddpm, vdm: denoising, ode, ode-uniform, and in steps (a vdm with
    --T) consistency, trajectory (T evaluations each), iw (importance-weighted, k trajectories) and entropy (not a
    bound). vae and hvae: analytic, sampled, iw."""
    timesteps: Annotated[int, Field(ge=0)] | None = None
    "Number of t per image and replicate, stratified; 0 uses every t."
    k: AtLeastOne | None = None
    "Trajectories in one logarithm of --form iw; default 8."
    T: AtLeastOne | None = None
    "Score a vdm in this number of steps, instead of its own number or continuous time; a ddpm with --spacing best."
    spacing: Spacing | None = None
    """With --T: even in t (the default), or best, the steps with the lowest bound on val, by costs that are measured
    once and stored in RUN/steps.json."""
    reverse_variance: Variance | None = None
    """With --T: σ² of the steps; default: the model's own, and with --spacing best moments, β̃ + c² Var(x|z), if the
    model knows Var(x|z)."""
    baseline: Path | None = None
    "Another run, scored with the same noise: adds the paired difference and its error."
    replicates: Annotated[int, Field(ge=2)] = 2
    "Independent estimates per image, for the Monte Carlo error."
    per_image: Path | None = None
    """Write every image's path (or row in its array), label, split and terms to this CSV file, and whether it is over
    the kept threshold."""
    sort: bool = False
    "With --per-image: sort by the total, the highest first."
    profile: Path | None = None
    "Plot bits/dim over t into this PNG file, or write it into this CSV file."
    worst: AtLeastOne | None = None
    """Write a page with this number of images of the highest bits/dim, each with the bits of each of its pixels, and
    with a threshold."""
    out: Path | None = None
    "With --worst: the .html file of the page; it must not exist. Default: a new one in RUN/scores."
    false_alarms: Annotated[float, Field(gt=0, lt=1)] | None = None
    """State a threshold that a normal image exceeds with at most this probability, by the scores of val, and keep it in
    RUN/scores/threshold.json. Default with --worst: the kept threshold, or one for 0.01."""
    against: str | None = None
    """With --data OTHER: AUROC, with DeLong's standard error, of those images against this split of the run's own
    data, by the total and by the profile over t; below 0.5, the others look more normal."""


class CompressOptions(Options):
    """Options of ``nelbo compress``."""

    steps: AtLeastOne | None = None
    "For a ddpm or vdm: K, network evaluations per image; more give a smaller file, slower. Default 24."
    each: bool = False
    "For a vae: code each image alone, so that few are decoded to have one, for some more bits."
    split: str | None = None
    "Of a data set: train, val, test or all; default: all."
    limit: AtLeastOne | None = None
    "Of a data set: use only this number of images, the first ones."
    bounds: bool = False
    "Also measure the run's bound of all these images, so that 'nelbo info' says where the bits go."
    check: bool = True
    "Decode every image again, in another process, before it is written."
    seed: Seed = 0
    "Seed of the noise of --bounds."
    weights: Weights = "ema"


class DecompressOptions(Options):
    """Options of ``nelbo decompress``."""

    indices: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    "Decode only the images with these numbers, from 0; by default all."


class EvaluateOptions(MeasuringOptions, SamplingOptions):
    """Options of ``nelbo evaluate``."""

    samples: Annotated[int, Field(ge=20)] = 2000
    "Number of samples."
    features: Path | None = None
    """Feature space: a folder of 'nelbo features', an ae run, or 'inception'; default: the data's own."""
    neighbours: Path | None = None
    "Write samples beside their nearest training images to this PNG."
