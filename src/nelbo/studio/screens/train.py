"""Train: a family on data, in a process of its own; live speed, loss, bits/dim and samples."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from nelbo.config.families import family_names, family_summary, family_word
from nelbo.errors import InputError
from nelbo.studio.html import curve, facts, note, problem, sheet
from nelbo.studio.screens.data import asked_options, data_choice, size_and_fit
from nelbo.studio.studio import Screen, Studio
from nelbo.studio.trainings import messages
from nelbo.studio.words import bits, duration, of_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from nelbo.data import Dataset
    from nelbo.jobs.progress import Progress

EVERY = 2.0
"""Seconds between two looks at a training."""
FIRST = "ddpm"
MINUTES = [(f"{minutes:g}", minutes) for minutes in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)]


def build(studio: Studio) -> None:
    """The components, and their events."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            family = gr.Dropdown(
                family_names(), value=FIRST, label="Family", info=family_summary(FIRST), filterable=False
            )
            spec = data_choice(studio, "train-spec")
            minutes = gr.Dropdown(MINUTES, value=2.0, label="Minutes", filterable=False, elem_id="train-minutes")
            labels = gr.Checkbox(False, label="Learn labels", info="To draw images of one class.")
            name = gr.Textbox("", label="Name", placeholder="such as digits-1", elem_id="train-name")
            with gr.Accordion("Images of other sizes", open=False):
                size, fit = size_and_fit()
            with gr.Row():
                go = gr.Button("Start a training", variant="primary", min_width=80, elem_id="train-go")
                guess = gr.Button("Estimate", min_width=80, elem_id="train-guess")
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(elem_id="train-note")
            with gr.Row():
                stop = gr.Button("Stop this run", interactive=False, elem_id="train-stop")
                more = gr.Button("Train this run on", interactive=False, elem_id="train-more")
            live = gr.HTML(elem_id="train-live")
            pictures = gr.HTML(elem_id="train-pictures")
    family.change(lambda word: gr.Dropdown(info=family_summary(word)), [family], [family], show_progress="hidden")
    asked = [family, spec, minutes, labels, name, size, fit]
    clock = gr.Timer(EVERY, active=False)
    studio.work(go.click, partial(start, studio), asked, [said, studio.run, clock], once=True)
    studio.work(guess.click, partial(guessed, studio), [family, spec, minutes, labels, size, fit], [said], once=True)
    studio.answer(stop.click, partial(halt, studio), [studio.run], [said])
    studio.answer(more.click, partial(train_on, studio), [studio.run, minutes], [said, clock])
    seen = gr.State(None)
    shown = [live, pictures, seen, stop, more, clock]
    studio.answer([clock.tick, studio.run.change, studio.tab.select], partial(look, studio), [studio.run, seen], shown)


def start(
    studio: Studio, family: str, spec: str, minutes: float, labels: bool, name: str, size: str, fit: str
) -> list[Any]:
    """Start a training, after the data have been read and checked."""
    options = asked_options(studio, spec, size, fit)
    studio.dataset(options)
    path = studio.folders.new(name.strip() or unused_name(studio, family, spec))
    if path.exists():
        raise InputError("name", f"{path.name} already exists; choose another, or train that run on")
    words = [f"--data={options.data}", f"--minutes={minutes:g}", *["--labels"] * labels]
    words += [f"--size={options.size}"] if options.size else []
    words += [f"--fit={options.fit}"] if options.fit else []
    studio.trainings.start(family_word(family), path, words)
    problem_of(studio, path)
    choices = studio.run_choices()
    known = [value for _, value in choices]
    choices += [] if str(path) in known else [(studio.name_of(path), str(path))]
    line = f"Started {path.name} for {minutes:g} min. It goes on if you close this page or end the studio."
    return [note(line), gr.Dropdown(choices=choices, value=str(path)), gr.Timer(active=True)]


def guessed(studio: Studio, family: str, spec: str, minutes: float, labels: bool, size: str, fit: str) -> list[Any]:
    """How far a training would come."""
    from nelbo.jobs.estimate import estimate
    from nelbo.jobs.monitor import rounded

    found = estimate(family_word(family), asked_options(studio, spec, size, fit), minutes, labels)
    speed, steps = rounded(found.images_per_second), rounded(found.steps)
    visits = rounded(found.steps * found.batch_size / found.images)
    line = f"About {speed} images/s here: {minutes:g} min are about {steps} steps, each image about {visits} times."
    more = f"{found.parameters:,} parameters, {found.batch_size} images a step, {found.images:,} training images."
    return [note(line, more)]


def problem_of(studio: Studio, path: Path, patience: float = 20.0) -> None:
    """Wait until a training has its settings.

    Raises:
        InputError: it ended before.
    """
    import time

    from nelbo.config.names import CONFIG

    until = time.monotonic() + patience
    while time.monotonic() < until and not (path / CONFIG).exists():
        if (why := studio.trainings.ended_badly(path)) is not None:
            raise InputError(path.name, of_terminal(why))
        time.sleep(0.2)


def unused_name(studio: Studio, family: str, spec: str) -> str:
    """family-data, or family-data-2, …"""
    from pathlib import Path

    from nelbo.report.paths import unused

    return unused(studio.folders.new("x").parent, f"{family}-{Path(spec).name}", "").name


def halt(studio: Studio, run: str | None) -> list[Any]:
    """Ask the chosen run's training to end."""
    from nelbo.jobs.progress import progress_of

    path = chosen(studio, run)
    begun = progress_of(path).step > 0
    studio.trainings.stop(path)
    if not begun:
        return [note(f"{path.name} stops. It has hardly begun; “Train this run on” starts it again, or continues it.")]
    return [note(f"{path.name} writes a checkpoint and stops. “Train this run on” continues it.")]


def train_on(studio: Studio, run: str | None, minutes: float) -> list[Any]:
    """Continue the chosen run to its end, or for minutes more if it has ended; without a checkpoint, start it."""
    from nelbo.jobs.progress import progress_of
    from nelbo.training import latest_checkpoint

    path = chosen(studio, run)
    found = progress_of(path)
    words = []
    if found.share >= 1:
        words = [f"--minutes={found.seconds / 60 + minutes:.2f}"]
    begun = latest_checkpoint(path) is not None
    data = studio.opened(run).dataset if begun else unbegun_data(studio, path)
    data.split("train")  # raises if they have vanished
    studio.trainings.resume(path, family_word(found.family), words)
    if not begun:
        return [note(f"{path.name} has no checkpoint, so it starts from nothing."), gr.Timer(active=True)]
    return [note(f"{path.name} trains on" + (f", for {minutes:g} min more." if words else ".")), gr.Timer(active=True)]


def unbegun_data(studio: Studio, path: Path) -> Dataset:
    """The data of a run without a checkpoint.

    Raises:
        InputError: they have vanished, or are elsewhere.
    """
    from nelbo.jobs.run import Run, is_place

    opened = Run(studio.folders.contained(path))
    data = opened.config.data.data
    if is_place(data):
        studio.folders.contained(data)
    return opened.dataset


def chosen(studio: Studio, run: str | None) -> Path:
    """The path of the chosen run.

    Raises:
        InputError: none is chosen, or it is elsewhere.
    """
    if not run:
        raise InputError("run", "none is chosen; choose one above, or start a training")
    return studio.folders.inside(run)


def look(studio: Studio, run: str | None, seen: str | None) -> list[Any]:
    """What is known of the training of the chosen run, its samples if there are new ones, and what can be done."""
    if not run:
        return [note("No run is chosen. “Start a training” makes one."), "", None, *able(False, False)]
    path = studio.folders.inside(run)
    running = studio.trainings.running(path)
    return [*looked(studio, path, seen, running), *able(running, not running)]


def able(stop: bool, more: bool) -> list[Any]:
    """The buttons that stop a run, and train it on; and the clock, which goes while there is something to see."""
    return [gr.Button(interactive=stop), gr.Button(interactive=more), gr.Timer(active=stop)]


def looked(studio: Studio, path: Path, seen: str | None, running: bool) -> list[Any]:
    """The state of a run, its newest samples if they are not those that were ``seen``, and which were seen now."""
    from nelbo.jobs.progress import latest_samples, progress_of

    failed = studio.trainings.ended_badly(path)
    try:
        found = progress_of(path)
    except InputError:
        if running:
            return [note(f"{path.name} is starting."), "", None]
        raise
    samples = latest_samples(path)
    live = (problem(of_terminal(failed)) if failed else "") + described(studio, found)
    if samples is None or str(samples) == seen:
        return [live, gr.skip() if samples is not None else "", seen if samples is not None else None]
    return [live, picture_of(studio, samples), str(samples)]


def described(studio: Studio, found: Progress) -> str:
    """The state of a training, its speed, and its curves."""
    running = studio.trainings.running(found.path)
    state = "training" if running else "ended" if found.share >= 1 else "stopped"
    left = duration(found.left) if running and found.left else "–"
    length = f"{found.minutes:g} min" if found.minutes else f"{found.steps:,} steps"
    speed = "–" if found.images_per_second is None else f"{found.images_per_second:,.0f} images/s"
    pairs = {
        "Run": f"{found.family} on {found.data}",
        "State": f"{state}, {found.share:.0%} of {length}",
        "Step": f"{found.step:,}",
        "Trained for": duration(found.seconds),
        "Speed": speed if running else f"{speed} at the end" if found.step else speed,
        "Time left": left,
    }
    if found.val:
        pairs["On val"] = bits(found.val[-1][1], found.val[-1][2])
    said = [line.partition(";")[0] for line in messages(found.path) if line.startswith("about ")]
    estimate = note(f"{said[-1][:1].upper()}{said[-1][1:]}.") if said and running else ""
    val = curve([(float(step), value) for step, value, _ in found.val], "bits/dim on val", "step")
    loss = curve([(float(step), value) for step, value in found.loss], "Training loss, per dimension", "step")
    return f'{facts(pairs)}{estimate}<div class="curves">{loss}{val}</div>'


def picture_of(studio: Studio, samples: Path) -> str:
    """The newest grid of samples, read as any stranger's image."""
    from nelbo.jobs.edit_images import read_file
    from nelbo.report.pictures import from_pixels

    step = int(samples.stem.removeprefix("step-"))
    return sheet(
        from_pixels(read_file(studio.folders.inside(samples))), f"Samples at step {step:,}, always from the same noise"
    )


SCREEN = Screen(20, "train", "Train", build)
