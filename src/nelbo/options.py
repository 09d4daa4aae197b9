"""The settings that every family shares, each with a default that a user would want. Written here once.

The command line, a ``--config`` file, ``RUN/config.toml`` and the Python calls all read these fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

Shape = tuple[int, int, int]
"""(C, H, W): channels, rows and columns of an image."""
Fit = Literal["crop", "pad", "resize"]
SplitBy = Literal["hash", "rank"]
Layout = Literal["nhw", "nhwc", "nchw", "hwc", "chw"]
AtLeastOne = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(description="cpu, cuda, cuda:1, …; auto takes CUDA where there is one.")]
Weights = Annotated[str, Field(description="ema (the moving average) or raw.")]


class Options(BaseModel):
    """Settings: fields with defaults, no others accepted, never changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


IN_FILES = Field(json_schema_extra={"in_files": True})
"""Marks a setting that only a file can hold: the command line has no option for it."""


class FamilyOptions(Options):
    """The settings of a family of models."""

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The same settings with everything that depends on the images' shape (C, H, W) filled in."""
        return self


class NetworkOptions(FamilyOptions):
    """The settings of nelbo's own networks, for a family to add its own to."""

    revision: Annotated[Literal[1], IN_FILES] = 1
    "Which architecture; weights fit the one that they were trained in, so that each stays in the code."


class DataOptions(Options):
    """Which images, and how they become arrays of one size."""

    data: str = "digits"
    "digits, mnist, fashion-mnist or cifar10, a folder of images, a .npy, .npz or IDX file, hf:NAME, or READER:NAME."
    size: Annotated[str, Field(pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")] | None = None
    "Height and width that every image gets, as HxW; needs --fit where an image has another size."
    fit: Fit | None = None
    "How an image of another size becomes --size."
    channels: Annotated[int, Field(ge=1, le=4)] | None = None
    "Convert every image to this many channels."
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    "The number of values a pixel can take, where the data do not say."
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    "Share of images kept for test, and again for val, where the data bring no split."
    skip_bad: bool = False
    "Leave out images that cannot be read instead of stopping."
    binarize: bool = False
    "Draw each pixel as 0 or 1 with its level as probability: training images anew at every step, the others once."

    layout: Layout | None = None
    "The axes of a .npy or .npz whose shape can be read in two ways: n images, h rows, w columns, c channels."

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
    """Which images, as a run records them."""

    split_by: Annotated[SplitBy, IN_FILES] = "hash"
    "How images are dealt to splits that the data lack: hash keeps each where it is; rank is the rule of format 1."


class TrainingOptions(Options):
    """The recipe: how long, how fast, and what is kept."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    "How long to train; 10 if neither this nor --steps is given."
    steps: AtLeastOne | None = None
    "How many steps to train instead; such a run can be repeated to the bit."
    seed: Seed = 0
    "Of every random number in the run."
    batch_size: AtLeastOne = 32
    "Images per step."
    optimizer: Literal["muon", "adamw"] = "muon"
    "Of matrices and convolutions; everything else, and both players of a gan, are trained by AdamW."
    lr: Annotated[float, Field(gt=0)] = 2e-3
    "Highest learning rate, of either optimiser. With --resume it may be another one from there on."
    warmup: Annotated[int, Field(ge=0)] = 100
    "Steps over which the learning rate rises from zero."
    decay: Annotated[float, Field(ge=0, le=1)] = 0.6
    "Share of the run, at its end, over which the learning rate falls to zero."
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    "Decoupled weight decay, on weights of two or more dimensions."
    clip: Annotated[float, Field(gt=0)] = 1.0
    "Largest norm of a gradient; longer ones are scaled down to it."
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    "Decay of the weights' moving average, reached after a warm-up of its own."
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    "Of the network while training; auto takes bf16 where the machine computes in it. 'nelbo score' is always fp32."
    compile: Literal["auto", "on", "off"] = "auto"
    "Compile the network of a ddpm or vdm (torch.compile); auto does on CUDA, in runs that are long enough to pay."
    shard: bool = False
    "Let each of several processes keep no more than its share of the weights (FSDP): for models that do not fit."
    device: str = "auto"
    "cpu, cuda, cuda:1, mps, …; auto takes CUDA where there is one, else mps, which trains in fp32, else cpu."
    tensorboard: bool = False
    "Write the metrics for TensorBoard too; needs the extra nelbo[tensorboard]."


class DistillOptions(Options):
    """What a student is to be, and how it is trained."""

    steps: AtLeastOne = 4
    "Steps from noise to image: network evaluations per image."
    teacher_steps: AtLeastOne | None = None
    "The steps that are learned from, a multiple of --steps; about 64 if left out."
    out: Path | None = None
    "The run directory, which must not exist yet; runs/NAME-4-steps if left out."
    resume: bool = False
    "Go on with the student in --out from its last checkpoint."
    minutes: Annotated[float, Field(gt=0)] | None = None
    "How long to train; 5 if neither this nor --train-steps is given."
    train_steps: AtLeastOne | None = None
    "How many steps to train instead."
    lr: Annotated[float, Field(gt=0)] | None = None
    "Highest learning rate; that of the run if left out, as everything else of its recipe."
    seed: Seed | None = None
    "Of every random number; that of the run if left out."
    device: Device | None = None
    "cpu, cuda, cuda:1, mps, …; that of the run if left out."


class FeaturesOptions(Options):
    """How the features are trained in which samples are measured."""

    out: Path | None = None
    "A new folder for them; one in your cache, where the other commands look, if left out."
    epochs: AtLeastOne = 8
    "How often to go through the training images."
    seed: Seed = 0
    "Of the first weights and of the order."
    device: Device = "auto"


class SamplingOptions(Options):
    """How images are drawn; what is left out, the family chooses."""

    sampler: str | None = None
    """ancestral, ddim, or one of higher order: dpm++, unipc or heun. Unless told, what is best with so many steps:
    unipc below 20, else ddim."""
    steps: AtLeastOne | None = None
    """Network evaluations per image; 200 (ddim), all (ancestral) or 20 (others) unless told. Of a gan: how many G(z)
    each image is chosen from, by a Metropolis–Hastings chain that the discriminator judges; 1 unless told."""
    eta: float | None = None
    "DDIM's η, from 0 (deterministic) to 1 (as random as ancestral)."
    clip: bool = True
    "Hold the predicted image to the range of pixels on the way."
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Of ae, vae, hvae and gan: the spread of z, 1 being the prior's own; below it images are more typical and differ
    less."""


class SampleOptions(SamplingOptions):
    """Which images are drawn, and where they go."""

    out: Path | None = None
    """A .png (one grid), .gif (the denoising), .npz (the exact levels) or a folder of PNGs; it must not exist.
    A new grid in RUN/samples if left out."""
    real: bool = False
    "Put real images beside the samples, evenly from all classes of the test split, by the seed."
    seed: Seed = 0
    "Image i of a seed is always the same image."
    weights: Weights = "ema"
    device: Device = "auto"
    batch_size: AtLeastOne = 64
    "Images at a time; changes speed and memory only."


class MeasuringOptions(Options):
    """How a run is measured."""

    split: str = "test"
    "train, val or test."
    seed: Seed = 0
    "Of the noise."
    weights: Weights = "ema"
    device: Device = "auto"
    batch_size: AtLeastOne | None = None
    "Images at a time; changes speed and memory only. What is quickest on the device if left out."
    again: bool = False
    "Measure anew, even if RUN/scores holds this very result."


class ScoreOptions(MeasuringOptions):
    """What the bound of images is asked for."""

    limit: AtLeastOne | None = None
    "Score the first so many images only."
    form: str | None = None
    """How the bound is written; the family's first unless told. ddpm, vdm: denoising, ode, ode-uniform, and in steps
    (a vdm with --T) consistency, trajectory (T evaluations each), iw (importance-weighted, k trajectories) and
    entropy (not a bound by itself). vae and hvae: analytic, sampled, iw."""
    timesteps: Annotated[int, Field(ge=0)] | None = None
    "How many t to evaluate per image and replicate, stratified; 0 takes every t."
    k: AtLeastOne | None = None
    "Trajectories in one logarithm of --form iw; 8 unless told."
    T: AtLeastOne | None = None
    "Score a vdm in so many steps, and not in its own number or in continuous time."
    baseline: Path | None = None
    "Another run, measured with the same noise: adds the paired difference and its own error."
    replicates: Annotated[int, Field(ge=2)] = 2
    "Independent estimates per image, from which the Monte-Carlo error is known."
    per_image: Path | None = None
    "Write every image's path (or row in its array), label, split and terms to this CSV file."
    sort: bool = False
    "With --per-image: the strangest image first, by its total."
    profile: Path | None = None
    "Draw where in t the bits are into this PNG file, or write it into this CSV file."
    against: str | None = None
    """With --data OTHER: how well the score tells those images from this split of the run's own: AUROC, with DeLong's
    standard error. By the total, and by how the bits lie over t; below 0.5, the others look more normal."""


class EvaluateOptions(MeasuringOptions, SamplingOptions):
    """Which samples are measured, and how."""

    samples: Annotated[int, Field(ge=20)] = 2000
    "How many to draw."
    features: Path | None = None
    """Where to measure: a folder that 'nelbo features' made, an ae run, or 'inception'; the data's own if left out."""
    neighbours: Path | None = None
    "Draw samples beside the training images nearest to them into this PNG."
