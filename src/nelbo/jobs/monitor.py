"""What a person sees of a model that trains: a log, a bar, what goes wrong, and how ``val`` is doing."""

from __future__ import annotations

from nelbo.config.files import CONFIG, RunConfig, write_run_config
from nelbo.data import Dataset
from nelbo.jobs.journal import Journal
from nelbo.jobs.previews import PIECE_SECONDS, Previews
from nelbo.report.progress import Bar, console
from nelbo.training import Step, Trainer

LOG_STEPS = 10
FIRST_STEPS = 3
"""So many steps are timed before a run by the clock is told how far it will come."""
FEW_STEPS = 300
"""Fewer steps than this teach a model next to nothing."""


class Monitor:
    """Watches a training run from outside: logs, moves the bar, and shows previews at milestones."""

    def __init__(self, trainer: Trainer, dataset: Dataset, journal: Journal, progress: Bar, config: RunConfig) -> None:
        self.trainer, self.journal, self.progress = trainer, journal, progress
        self.config = config
        self.previews = Previews(trainer, dataset, journal)
        self.last = (trainer.clock(), trainer.step)
        self.first: list[float] = []
        self.mark = trainer.clock()
        self.said: str | None = None

    def see(self, step: Step) -> None:
        """Take in one step. What cannot be written is said, and training goes on."""
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
        """What the trainer has to say."""
        while self.trainer.news:
            console().print(self.trainer.news.pop(0))

    def say(self, trouble: str | None) -> None:
        """Say what cannot be written, once, and when it can again."""
        if trouble != self.said:
            line = "can be written again" if trouble is None else f"{trouble}; training goes on"
            console().print(f"step {self.trainer.step:,}: {line}")
        self.said = trouble

    def note(self, step: Step) -> bool:
        """Log it, and look where it is time to; returns whether anything was written."""
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
        """Time the first steps; say so early where a run by the clock will have too few of them."""
        options, team = self.trainer.options, self.trainer.team
        float(step.loss)  # waits for the device
        took = self.trainer.clock() - self.mark
        self.first.append(took)
        if took > PIECE_SECONDS and not self.trainer.compiler_errors:  # what a first step has to prepare is less
            self.first += [took] * (FIRST_STEPS - len(self.first))
        if len(self.first) < FIRST_STEPS or options.minutes is None:
            return
        took = min(self.first)
        self.previews.budget.evaluation = team.count * took / options.batch_size  # the main process looks alone
        self.trainer.after = self.previews.last_seconds()
        steps = step.step + int((60 * options.minutes - step.seconds) / took)
        if steps >= FEW_STEPS:
            return
        ways = ["smaller images (`size`)", f"`minutes` {round(FEW_STEPS * took / 60 + 0.5)} or more"]
        ways += ["a smaller `batch_size`"] * (options.batch_size > 1)
        ways += ["a GPU"] * (self.trainer.model.device.type == "cpu")
        about = f"a step takes {took:.2g} s here, so {options.minutes:g} minutes are about {max(1, steps)} steps"
        why = f"it takes some hundreds to learn anything; what helps: {', '.join(ways[:-1])}, or {ways[-1]}"
        console().print(f"{about}; {why}")

    def bring_back(self) -> None:
        """Where the run directory was deleted under the run, make it anew with what it takes to open it.

        Checkpoints go on being written; what was drawn and logged before is lost.
        """
        place = self.trainer.run_folder
        if not (place / CONFIG).exists():
            place.mkdir(parents=True, exist_ok=True)
            write_run_config(place, self.config)
            self.journal.open()
            line = f"{place} was deleted under the run; it is made anew, and training goes on"
            console().print(f"step {self.trainer.step:,}: {line}")

    def preview(self, step: Step) -> None:
        """Show previews; where there is no bar, also print a line."""
        self.previews.show(step)
        if self.progress.disable:
            done, val = f"{100 * step.progress:.0f}%", self.previews.val
            console().print(f"{done} · step {step.step:,} · {step.seconds:.0f} s{val}")

    def sum_up(self) -> None:
        """Say, at the end, how much of the time went into previews."""
        if self.first:
            console().print(self.previews.summary())
