"""Every command but ``train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from nelbo.options import DataOptions

READING = Parameter(name="*", group=Group("How to read --data"))
AtLeastOne = Annotated[int, Parameter(validator=Number(gte=1))]
AtLeastTwo = Annotated[int, Parameter(validator=Number(gte=2))]
Temperature = Annotated[float | None, Parameter(validator=Number(gte=0))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]


def sample(
    run: Path,
    /,
    *,
    n: Annotated[AtLeastOne, Parameter(name=["--n", "-n"])] = 64,
    out: Path | None = None,
    sampler: str | None = None,
    steps: AtLeastOne | None = None,
    eta: float | None = None,
    clip: bool = True,
    temperature: Temperature = None,
    real: bool = False,
    seed: Seed = 0,
    weights: str = "ema",
    device: str = "auto",
    batch_size: AtLeastOne = 64,
) -> None:
    """Draw images from a run. Prints where they are.

    ```
    nelbo sample runs/mnist -n 100 --out digits.png
    nelbo sample runs/mnist -n 16 --sampler ancestral --out denoising.gif
    ```

    Parameters
    ----------
    run
        The directory that 'train' made.
    n
        How many images.
    out
        A .png (one grid), .gif (the denoising), .npz (the exact levels) or a folder of PNGs; it must not exist.
        A new grid in RUN/samples if left out.
    sampler
        ancestral, ddim, or one of higher order: dpm++, unipc or heun. Unless told, what is best with so many steps:
        unipc below 20, else ddim.
    steps
        Network evaluations per image; 200 (ddim), all (ancestral) or 20 (others) unless told. Of a gan: how many G(z)
        each image is chosen from, by a Metropolis–Hastings chain that the discriminator judges; 1 unless told.
    eta
        DDIM's η, from 0 (deterministic) to 1 (as random as ancestral).
    clip
        Hold the predicted image to the range of pixels on the way.
    temperature
        Of ae, vae, hvae and gan: the spread of z, 1 being the prior's own; below it images are more typical and differ
        less.
    real
        Put real images beside the samples, evenly from all classes of the test split, by the seed.
    seed
        Image i of a seed is always the same image.
    weights
        ema (the moving average) or raw.
    device
        cpu, cuda, cuda:1, …; auto takes CUDA where there is one.
    batch_size
        Images at a time; changes speed and memory only.
    """
    from nelbo.jobs.sample import draw
    from nelbo.models.sampling import SampleSettings
    from nelbo.report.progress import console

    settings = SampleSettings(sampler, steps, eta, clip, temperature)
    where, how = draw(
        run, n=n, out=out, seed=seed, settings=settings, real=real, weights=weights, device=device, batch=batch_size
    )
    console().print(f"{n} images, {how}, seed {seed}, {weights} weights")
    print(where)


def score(
    run: Path,
    /,
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    split: str = "test",
    limit: AtLeastOne | None = None,
    form: str | None = None,
    timesteps: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    k: Annotated[AtLeastOne | None, Parameter(name="--k")] = None,
    T: Annotated[AtLeastOne | None, Parameter(name="--T")] = None,
    baseline: Path | None = None,
    replicates: AtLeastTwo | None = None,
    per_image: Path | None = None,
    sort: Annotated[bool, Parameter(negative="")] = False,
    profile: Path | None = None,
    against: str | None = None,
    samples: AtLeastOne | None = None,
    sampler: str | None = None,
    steps: AtLeastOne | None = None,
    temperature: Temperature = None,
    features: Path | None = None,
    neighbours: Path | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
    seed: Seed = 0,
    weights: str = "ema",
    device: str = "auto",
    batch_size: AtLeastOne | None = None,
) -> None:
    """Measure a run on held-out images: the negative ELBO in bits/dim, term by term, with its errors.

    ```
    nelbo score runs/mnist
    nelbo score runs/mnist --split val --limit 1000 --timesteps 32 --json
    nelbo score runs/mnist --samples 2000 --neighbours copies.png
    ```

    Parameters
    ----------
    run
        The directory that 'train' made.
    split
        train, val or test.
    limit
        Score the first so many images only.
    form
        How the bound is written; the family's first unless told. ddpm, vdm: denoising, ode, ode-uniform, and in steps
        (a vdm with --T) consistency, trajectory (T evaluations each), iw (importance-weighted, k trajectories) and
        entropy (not a bound by itself). vae and hvae: analytic, sampled, iw.
    timesteps
        How many t to evaluate per image and replicate, stratified; 0 takes every t.
    k
        Trajectories in one logarithm of --form iw; 8 unless told.
    T
        Score a vdm in so many steps, and not in its own number or in continuous time.
    baseline
        Another run, measured with the same noise: prints the paired difference and its own error.
    replicates
        Independent estimates per image, from which the Monte-Carlo error is known; 2 unless told.
    per_image
        Write every image's path (or row in its array), label, split and terms to this CSV file.
    sort
        With --per-image: the strangest image first, by its total.
    profile
        Draw where in t the bits are into this PNG file, or write it into this CSV file.
    against
        With --data OTHER: how well the score tells those images from this split of the run's own: AUROC, with DeLong's
        standard error. By the total, and by how the bits lie over t; below 0.5, the others look more normal.
    samples
        Measure so many samples instead, beside the split's images: FD and KD, precision and recall, classes, copies.
    sampler
        With --samples: how to draw them, as in 'nelbo sample'.
    steps
        With --samples: network evaluations per image, as in 'nelbo sample'.
    temperature
        With --samples: the spread of z, as in 'nelbo sample'.
    features
        With --samples, where: a folder that 'nelbo features' made, an ae run, or 'inception'; the data's own if left
        out.
    neighbours
        With --samples: draw samples beside the training images nearest to them into this PNG.
    json_
        Print one JSON object and nothing else.
    again
        Score anew, even if RUN/scores holds this very score.
    seed
        Of the noise.
    weights
        ema (the moving average) or raw.
    device
        cpu, cuda, cuda:1, …; auto takes CUDA where there is one.
    batch_size
        Images at a time; changes speed and memory only. What is quickest on the device if left out.
    """
    from nelbo.jobs.quality import require_samples, score_samples
    from nelbo.jobs.score import score as measure
    from nelbo.models.sampling import SampleSettings
    from nelbo.report.tables import score_table, score_title
    from nelbo.streams import Speaker

    out = Speaker(width=200)  # a terminal that is narrower than the table wraps it; no number is cut off
    shared = {"split": split, "seed": seed, "weights": weights, "device": device, "again": again, "batch": batch_size}
    require_samples(
        samples,
        {"--sampler": sampler, "--steps": steps, "--temperature": temperature}
        | {"--features": features, "--neighbours": neighbours},
        {"--limit": limit, "--form": form, "--timesteps": timesteps, "--k": k, "--T": T, "--baseline": baseline}
        | {"--replicates": replicates, "--per-image": per_image, "--profile": profile, "--against": against}
        | {"--sort": sort or None, "--data": data.data if data.model_fields_set else None},
    )
    if samples is not None:
        settings = SampleSettings(sampler, steps, temperature=temperature)
        result = score_samples(run, samples, features=features, settings=settings, neighbours=neighbours, **shared)  # type: ignore[arg-type]
    else:
        result = measure(
            run,
            data=data if data.model_fields_set else None,
            limit=limit,
            form=form,
            timesteps=timesteps,
            k=k,
            T=T,
            baseline=baseline,
            replicates=replicates or 2,
            per_image=per_image,
            sort=sort,
            profile=profile,
            against=against,
            **shared,  # type: ignore[arg-type]
        )
    if json_:
        print(json.dumps(result))
        return
    out.print(score_title(result), soft_wrap=True)
    out.print(score_table(result))
    for line in result.get("warnings", []):
        out.print(line, soft_wrap=True)


def features(
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    out: Path | None = None,
    epochs: AtLeastOne = 8,
    seed: Seed = 0,
    device: str = "auto",
) -> None:
    """Train the features in which 'score --samples' and 'compare' measure: a small classifier of the data's labels.

    ```
    nelbo features --data mnist
    ```

    Parameters
    ----------
    out
        A new folder for them; one in your cache, where the other commands look, if left out.
    epochs
        How often to go through the training images.
    seed
        Of the first weights and of the order.
    device
        cpu, cuda, cuda:1, …; auto takes CUDA where there is one.
    """
    from nelbo.jobs.features import features as learn
    from nelbo.report.progress import console

    where, about = learn(data, out=out, epochs=epochs, seed=seed, device=device)
    right = about["accuracy"]
    console().print(
        f"right on {right['val']:.2%} of val and {right['test']:.2%} of test, sha256 {about['sha256'][:12]}…"
    )
    print(where)


def compare(
    *runs: Path,
    out: Path = Path("compare"),
    split: str = "test",
    score: Annotated[bool, Parameter(negative="")] = False,
    limit: AtLeastOne | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Put runs side by side on one HTML page: bits/dim and terms, samples from the same seeds, training curves.

    ```
    nelbo compare runs/vae runs/ddpm runs/vdm --out report
    ```

    Parameters
    ----------
    runs
        The directories that 'train' made, each scored before by 'nelbo score', or now with --score.
    out
        The folder that gets index.html and compare.json.
    split
        Whose scores to show.
    score
        Score what is missing, so that all runs of the same data are measured on the same images.
    limit
        With --score: the first so many images; as many as any of the runs was scored on before, if left out.
    json_
        Print what compare.json holds, and nothing else.
    """
    from nelbo.jobs.compare import compare as put
    from nelbo.report.progress import console

    found = put(runs, out, split=split, score=score, limit=limit)
    if found["unlike"]:
        console().print(found["unlike"])
    print(json.dumps(found) if json_ else out / "index.html")


def info(
    what: str,
    /,
    *,
    reading: Annotated[DataOptions, READING] = DataOptions(),
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say what a run or a data set is, and everything that decided it.

    ```
    nelbo info runs/mnist
    nelbo info photos/ --size 64x48 --fit crop
    ```

    Parameters
    ----------
    what
        RUN or SPEC.
    json_
        Print one JSON object and nothing else.
    """
    from nelbo.errors import InputError
    from nelbo.jobs.describe import info as describe

    if "data" in reading.model_fields_set:
        raise InputError("--data", "'info' takes what it describes as WHAT; leave --data out")
    facts = describe(what, reading)
    if json_:
        print(json.dumps(facts))
    else:
        print("\n".join(lines(facts)))


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """``name  value`` for each fact, tables in one line, sentences one below the other."""
    width = max(len(name) for name in facts)
    below = "\n" + " " * (len(indent) + width + 2)
    return [
        f"{indent}{name:<{width}}  {below.join(value) or 'none' if name == 'notes' else shown(value)}"
        for name, value in facts.items()
    ]


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} = {shown(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list):
        return " ".join(shown(part) for part in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def distill(
    run: Path,
    /,
    *,
    steps: AtLeastOne = 4,
    teacher_steps: AtLeastOne | None = None,
    out: Path | None = None,
    resume: bool = False,
    minutes: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    train_steps: AtLeastOne | None = None,
    lr: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    seed: Seed | None = None,
    device: str | None = None,
) -> None:
    """Train a student that draws in a few steps what a ddpm or vdm draws in many. Prints its run.

    ```
    nelbo distill runs/mnist --out runs/mnist-4-steps
    nelbo distill runs/mnist --steps 1 --minutes 20
    nelbo sample runs/mnist-4-steps -n 100
    ```

    By consistency distillation, on the run's own data. The student is a map from noise to images, so it has no bound.

    Parameters
    ----------
    run
        The run to learn from, a ddpm that predicts v or x0, or a vdm.
    steps
        Steps from noise to image: network evaluations per image.
    teacher_steps
        The steps that are learned from, a multiple of --steps; about 64 if left out.
    out
        The run directory, which must not exist yet; runs/NAME-4-steps if left out.
    resume
        Go on with the student in --out from its last checkpoint.
    minutes
        How long to train; 5 if neither this nor --train-steps is given.
    train_steps
        How many steps to train instead.
    lr
        Highest learning rate; that of the run if left out, as everything else of its recipe.
    seed
        Of every random number; that of the run if left out.
    device
        cpu, cuda, cuda:1, …; auto takes CUDA where there is one.
    """
    from nelbo.jobs.distill import distill as put

    print(
        put(
            run,
            steps=steps,
            teacher_steps=teacher_steps,
            out=out,
            resume=resume,
            minutes=minutes,
            train_steps=train_steps,
            lr=lr,
            seed=seed,
            device=device,
        )
    )


def import_(
    folder: Path,
    run: Path,
    /,
    *,
    data: Annotated[DataOptions, READING] = DataOptions(),
    label: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
) -> None:
    """Make a run of a diffusers folder: a UNet2DModel and its scheduler, in JSON and safetensors. Prints the run.

    ```
    nelbo import ddpm-cifar10-32/ runs/theirs --data cifar10
    nelbo score runs/theirs --limit 100
    ```

    Outputs, β and predictions are those of diffusers; pickled weights are not opened.

    Parameters
    ----------
    folder
        With unet/ and scheduler/, as save_pretrained of a pipeline makes it; or of the network alone, with
        scheduler_config.json beside config.json.
    run
        The run directory to make; it must not exist.
    label
        The class whose images are drawn and scored, where the network has to be told one.
    """
    from nelbo.jobs.interchange import import_folder

    print(import_folder(folder, run, data=data if data.model_fields_set else None, label=label).path)


def export(run: Path, folder: Path, /, *, weights: str = "ema") -> None:
    """Write a run as a diffusers folder, which DDPMPipeline.from_pretrained loads. Prints the folder.

    ```
    nelbo export runs/theirs ddpm-fine-tuned/
    ```

    Parameters
    ----------
    run
        Of a ddpm with diffusers' network: one that 'nelbo import' made, or that was trained from one by --config.
    folder
        The folder to make; it must not exist.
    weights
        ema (the moving average) or raw.
    """
    from nelbo.jobs.interchange import export_run

    print(export_run(run, folder, weights))
