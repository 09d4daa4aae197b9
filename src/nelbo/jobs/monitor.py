"""The output of a training run: log, progress bar, warnings, and the score of ``val``."""

from __future__ import annotations

from nelbo.config.files import CONFIG, RunConfig, write_run_config
from nelbo.data import Dataset
from nelbo.jobs.journal import Journal
from nelbo.jobs.previews import PIECE_SECONDS, Previews
from nelbo.report.progress import Bar, console
from nelbo.training import Step, Trainer

LOG_STEPS = 10
FIRST_STEPS = 3
"""Steps that are timed before the length of a run with ``minutes`` is estimated."""
FEW_STEPS = 300
"""A run with fewer steps learns almost nothing."""


def rounded(count: float) -> str:
    """The count with two digits.

    >>> rounded(9_837), rounded(103.2), rounded(6.27), rounded(0.04)
    ('9,800', '100', '6.3', '0.04')
    """
    return f"{float(f'{count:.2g}'):,.0f}" if count >= 10 else f"{count:.2g}"


class Monitor:
    """Observes a training run: writes the log, moves the bar, and makes previews at milestones."""

    def __init__(self, trainer: Trainer, dataset: Dataset, journal: Journal, progress: Bar, config: RunConfig) -> None:
        self.trainer, self.journal, self.progress = trainer, journal, progress
        self.config = config
        self.previews = Previews(trainer, dataset, journal)
        self.last = (trainer.clock(), trainer.step)
        self.first: list[float] = []
        self.mark = trainer.clock()
        self.said: str | None = None

    def see(self, step: Step) -> None:
        """Process one step. A failed write is reported, and training continues."""
        self.tell()
        if len(self.first) < FIRST_STEPS:
            self.expect(step)
        try:
            written = self.note(step)
        except OSError as error:
            self.say(f"{error.filename or self.trainer.run_folder}: {error.strerror or error}")
        else:
            if written or self.trainer.trouble:
                self.say(self.trainer.trouble)
        self.mark = self.trainer.clock()

    def tell(self) -> None:
        """Print the trainer's messages."""
        while self.trainer.news:
            console().print(self.trainer.news.pop(0))

    def say(self, trouble: str | None) -> None:
        """Report a failed write once, and its end."""
        if trouble != self.said:
            line = "can be written again" if trouble is None else f"{trouble}; training continues"
            console().print(f"step {self.trainer.step:,}: {line}")
        self.said = trouble

    def note(self, step: Step) -> bool:
        """Log the step, and make previews at a milestone; returns whether anything was written."""
        if step.step % LOG_STEPS and not step.milestone:
            return False
        self.bring_back()
        loss, now = float(step.loss), self.trainer.clock()
        steps, seconds = step.step - self.last[1], max(1e-9, now - self.last[0])
        rate = steps * self.trainer.options.batch_size / seconds
        if steps > 0:
            self.previews.budget.evaluation = self.trainer.team.count / rate
        try:
            if step.milestone:
                self.trainer.signals.abandonable(lambda: self.preview(step))
        finally:
            self.last = (self.trainer.clock(), step.step)
        self.journal.write(
            step.step,
            {"loss": loss, "lr": step.lr, "images_per_second": round(rate, 1), "seconds": round(step.seconds, 2)},
        )
        note = f"step {step.step:,} · loss {loss:.4f} · {rate:,.0f} images/s{self.previews.val}"
        self.progress.move(step.progress, note=note)
        return True

    def expect(self, step: Step) -> None:
        """Time the first steps, and warn early if a run with ``minutes`` will have too few steps."""
        options, team = self.trainer.options, self.trainer.team
        float(step.loss)  # waits for the device
        took = self.trainer.clock() - self.mark
        self.first.append(took)
        if took > PIECE_SECONDS and not self.trainer.compiler_errors:  # longer than the overhead of a first step
            self.first += [took] * (FIRST_STEPS - len(self.first))
        if len(self.first) < FIRST_STEPS or options.minutes is None:
            return
        took = min(self.first)
        self.previews.budget.evaluation = team.count * took / options.batch_size  # only the main process makes previews
        self.trainer.after = self.previews.last_seconds()
        steps = step.step + int((60 * options.minutes - step.seconds) / took)
        if steps >= FEW_STEPS:
            seen, images = steps * options.batch_size, len(self.trainer.batches.images)
            console().print(
                f"about {rounded(steps)} steps in {minutes(options.minutes)}: {rounded(seen)} images, each of "
                f"{images:,} about {rounded(seen / images)} times; samples on the way are in {self.previews.folder}"
            )
            return
        ways = ["smaller images (`size`)", f"`minutes` {round(FEW_STEPS * took / 60 + 0.5)} or more"]
        ways += ["a smaller `batch_size`"] * (options.batch_size > 1)
        ways += ["a GPU"] * (self.trainer.model.device.type == "cpu")
        are = "is" if options.minutes == 1 else "are"
        about = f"a step takes {took:.2g} s here, so {minutes(options.minutes)} {are} about {max(1, steps)} steps"
        why = f"a model needs some hundreds to learn anything; possible remedies: {', '.join(ways[:-1])}, or {ways[-1]}"
        console().print(f"{about}; {why}")

    def bring_back(self) -> None:
        """Recreate the run directory, if it was deleted during the run, with the files to open it.

        Later checkpoints go there; earlier samples and logs are lost.
        """
        place = self.trainer.run_folder
        if not (place / CONFIG).exists():
            place.mkdir(parents=True, exist_ok=True)
            write_run_config(place, self.config)
            self.journal.open()
            line = f"{place} was deleted during the run; it is recreated, and training continues"
            console().print(f"step {self.trainer.step:,}: {line}")

    def preview(self, step: Step) -> None:
        """Make previews; without a bar, also print a line."""
        self.previews.show(step)
        if self.progress.disable:
            done, val = f"{100 * step.progress:.0f}%", self.previews.val
            console().print(f"{done} · step {step.step:,} · {step.seconds:.0f} s{val}")

    def sum_up(self) -> None:
        """Print, at the end, the time that previews took."""
        if self.first:
            console().print(self.previews.summary())


def minutes(count: float) -> str:
    """Minutes in words.

    >>> minutes(1), minutes(0.5)
    ('1 minute', '0.5 minutes')
    """
    return f"{count:g} minute{'' if count == 1 else 's'}"
