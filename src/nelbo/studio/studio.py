"""What all screens share: the folders, the runs in memory, the trainings, the chosen run, the wiring of answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gradio as gr

from nelbo.errors import InputError
from nelbo.jobs.progress import found_runs
from nelbo.studio.answers import AT_ONCE, Answer, Going, long, quick, stopper
from nelbo.studio.safety import Folders
from nelbo.studio.trainings import Trainings

if TYPE_CHECKING:
    from nelbo.data import Dataset
    from nelbo.options import DataOptions
    from nelbo.studio.held import HeldRun, Models

DATA_SETS = 2
"""Data sets in memory."""
RESULT = "result"
"""The class of the places of results of the chosen run."""
LISTED = 4
"""Folders in a sentence."""


class Screen(NamedTuple):
    """A screen of the page.

    Attributes:
        place: its place in the order of all screens.
        name: its name in the address, a plain word.
        title: its title.
        build: makes its components and wires them.
    """

    place: int
    name: str
    title: str
    build: Callable[[Studio], None]


@dataclass
class Studio:
    """What all screens share.

    Attributes:
        folders: what may be read and written.
        trainings: the training processes.
        scratch: a folder of this process alone, for downloads; it is removed at the end.
        run: the list with the chosen run.
        tab: the tab of the screen that is built.
        data: the lists of data, which are filled when the page is loaded.
    """

    folders: Folders
    trainings: Trainings
    scratch: Path
    run: gr.Dropdown = field(init=False)
    tab: gr.Tab = field(init=False)
    data: list[gr.Dropdown] = field(default_factory=list)
    _models: Models | None = None
    _going: dict[int, Going] = field(default_factory=dict)
    _data: dict[str, Dataset] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def models(self) -> Models:
        """The runs in memory. What computes is imported at the first use, so that the page comes first."""
        with self._lock:
            if self._models is None:
                from nelbo.studio.held import Models

                self._models = Models(self.folders)
            return self._models

    def opened(self, run: str | None) -> HeldRun:
        """The chosen run.

        Raises:
            InputError: none is chosen, or it cannot be used.
        """
        return self.models.run(run)

    def run_choices(self) -> list[tuple[str, str]]:
        """(name, path) of each run in the folders, the latest first."""
        paths = [path for path in found_runs(self.folders.roots) if self.folders.has(path)]
        paths = [*(path for path in self.trainings.beginning() if path not in paths), *paths]
        return [(self.name_of(path), str(path)) for path in paths]

    def name_of(self, path: Path) -> str:
        """The path of a run, relative to the folder that was given."""
        for root in self.folders.roots:
            if path != root and path.is_relative_to(root):
                return printable(str(path.relative_to(root)))
        return printable(path.name)

    def places(self) -> str:
        """The names of the studio's folders, for a sentence."""
        names = [printable(root.name) for root in self.folders.roots]
        return ", ".join(names) if len(names) <= LISTED else f"{', '.join(names[:LISTED])}, …"

    def short(self, path: Path) -> str:
        """A path for a note: that in the folder that was given, with its name."""
        for root in self.folders.roots:
            if path.is_relative_to(root):
                return printable(str(Path(root.name) / path.relative_to(root)))
        return printable(str(path))

    def data_options(self, spec: str | None, **how: Any) -> DataOptions:
        """Options for data that are on this machine, and in the folders.

        Raises:
            InputError: they are elsewhere, or an option is wrong.
        """
        from nelbo.check import checked
        from nelbo.data.loading import NAMES, is_source
        from nelbo.jobs.browse import names_here
        from nelbo.options import DataOptions

        if not spec:
            raise InputError("data", "none are chosen; choose a name or a folder")
        given = {name: value for name, value in how.items() if value not in (None, "", False)}
        if spec in NAMES and spec not in names_here():
            fix = f"type 'nelbo info {spec}' in a terminal once, which downloads it"
            raise InputError("data", f"{spec} is not on this machine, and the studio downloads nothing; {fix}")
        if spec in NAMES:
            return checked(DataOptions, {"data": spec, **given})
        if is_source(spec):
            raise InputError("data", f"{spec} is not a folder, and the studio reads folders and known names alone")
        return checked(DataOptions, {"data": str(self.folders.contained(spec)), **given})

    def dataset(self, options: DataOptions, again: bool = False) -> Dataset:
        """A data set, which stays in memory.

        Args:
            options: how to read it.
            again: whether to read it again, because its files may have changed.

        Raises:
            InputError: it cannot be read.
        """
        from nelbo.jobs.run import read_data

        key = options.model_dump_json()
        if again or key not in self._data:
            self._data[key] = read_data(options)
            while len(self._data) > DATA_SETS:
                self._data.pop(next(iter(self._data)))
        return self._data[key]

    def uploaded(self, path: str) -> Path:
        """The path of a file that a visitor has sent, which is in the scratch folder.

        Raises:
            InputError: it is elsewhere: the visitor has named a file instead of sending it.
        """
        found = Path(path).resolve()
        if not found.is_relative_to(self.scratch.resolve()):
            raise InputError("file", "was not sent to the studio; choose it again")
        return found

    def data_choices(self) -> list[tuple[str, str]]:
        """(name, SPEC) of the named sets on this machine, and of the folders of images."""
        from nelbo.jobs.browse import data_below, names_here

        paths = data_below(self.folders.roots)
        return [(name, name) for name in names_here()] + [(self.name_of(path), str(path)) for path in paths]

    def answer(
        self,
        triggers: Callable[..., Any] | Sequence[Callable[..., Any]],
        answer: Answer,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Wire a quick answer: of several events that come faster than answers, the last one is answered.

        Args:
            triggers: events of components.
            answer: from the values of the inputs to a note and the values of the outputs.
            inputs, outputs: components; the first output is for the note.
        """
        call = quick(self._of_run(answer, inputs, outputs), len(outputs) - 1)
        for trigger in triggers if isinstance(triggers, Sequence) else [triggers]:
            trigger(
                call,
                list(inputs),
                list(outputs),
                show_progress="hidden",
                trigger_mode="always_last",
                concurrency_limit=AT_ONCE,
                api_visibility="private",
            )

    def work(
        self,
        triggers: Callable[..., Any] | Sequence[Callable[..., Any]],
        answer: Answer,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        stop: gr.Button | None = None,
        once: bool = False,
    ) -> None:
        """Wire a long answer, with progress in the place of the note, and a button that stops it.

        A click during an answer, or in the moment after a stop, is answered next. Of other events, such as those of a
        slider, the last one is.

        Args:
            triggers: events of components.
            answer: from the values of the inputs to a note and the values of the outputs.
            inputs, outputs: components; the first output is for the note.
            stop: the button.
            once: leave such an event out: a second press of a button that writes is no second wish.
        """
        going = None if stop is None else self._stopped_by(stop)
        call = long(self._of_run(answer, inputs, outputs), len(outputs) - 1, going)
        for trigger in triggers if isinstance(triggers, Sequence) else [triggers]:
            trigger(
                call,
                list(inputs),
                [*outputs, *([] if stop is None else [stop])],
                show_progress="hidden",
                trigger_mode="once" if once else mode_of(trigger),
                concurrency_limit=AT_ONCE,
                api_visibility="private",
            )

    def _of_run(self, answer: Answer, inputs: Sequence[Any], outputs: Sequence[Any]) -> Answer:
        """The answer, whose results name the run that they are of."""
        at = next((i for i, each in enumerate(inputs) if each is self.run), None)
        places = [i for i, each in enumerate(outputs) if RESULT in (each.elem_classes or ())]
        if at is None or not places:
            return answer

        def call(*values: Any) -> list[Any]:
            found = list(answer(*values))
            for i in places:
                if isinstance(found[i], str) and found[i]:
                    found[i] = f'<div data-run="{escape(values[at] or "")}">{found[i]}</div>'
            return found

        return call

    def _stopped_by(self, stop: gr.Button) -> Going:
        """The answers that a button stops; it is wired at its first use."""
        if stop._id not in self._going:
            going = self._going[stop._id] = {}
            stop.click(stopper(going), None, [stop], show_progress="hidden", api_visibility="private")
        return self._going[stop._id]


def result_place(name: str) -> gr.HTML:
    """The place of a result of the chosen run; the page says so when another run is chosen."""
    return gr.HTML(elem_id=name, elem_classes=RESULT)


def mode_of(trigger: Callable[..., Any]) -> Literal["multiple", "always_last"]:
    """Which events that come during an answer are answered: each click, and the last of others."""
    return "multiple" if getattr(trigger, "event_name", "") == "click" else "always_last"


def printable(name: str) -> str:
    """A file name for the page; a byte of it that is no text becomes ``\\xe9``, or its like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
