"""Heartbeats: which processes are reported as silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nelbo.processes import heartbeat
from nelbo.processes.heartbeat import Heartbeat

BEAT = 0.02


class Store:
    """A launcher's store, which may hang or be closed."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.hangs, self.closed = threading.Event(), False

    def answer(self) -> None:
        while self.hangs.is_set():
            time.sleep(BEAT)
        if self.closed:
            raise RuntimeError("connection closed")

    def set(self, key: str, value: str) -> None:
        self.answer()
        self.held[key] = value.encode()

    def get(self, key: str) -> bytes:
        self.answer()
        return self.held[key]

    def check(self, keys: list[str]) -> bool:
        self.answer()
        return all(key in self.held for key in keys)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hearts of three processes with one store, that beat quickly; and whom each has missed."""
    monkeypatch.setattr(heartbeat, "BEAT", BEAT)
    store, alarms = Store(), [[], [], []]
    hearts = [Heartbeat(store, rank, 3, alarms[rank].append) for rank in range(3)]
    yield store, hearts, alarms
    store.hangs.clear()
    for each in hearts:
        each.stop()


def until(happened: Callable[[], object]) -> None:
    """Wait for it; a thread may be kept from running for long on a busy machine."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(BEAT)


def long() -> None:
    """Three times the patience of a heart."""
    time.sleep(3 * BEAT * heartbeat.MISSED)


def test_nobody_is_missed_while_all_beat(made: Any) -> None:
    store, _, alarms = made
    long()
    assert alarms == [[], [], []]
    assert set(store.held) == {"beat-0", "beat-1", "beat-2"}


def test_the_one_that_falls_silent_is_named_by_the_others(made: Any) -> None:
    store, hearts, alarms = made
    until(lambda: len(store.held) == 3)
    hearts[1].store = Store()  # it beats where nobody hears it, as behind a broken cable
    until(lambda: alarms[0] and alarms[2])
    long()
    for others in (alarms[0], alarms[2]):
        assert len(others) == 1, "the alarm is given once"
        assert others[0].startswith("process 1 has been silent for")


def test_who_ends_is_not_missed(made: Any) -> None:
    store, hearts, alarms = made
    until(lambda: len(store.held) == 3)
    hearts[1].stop()
    assert store.held["beat-1"] == heartbeat.END
    long()
    assert alarms == [[], [], []]


def test_a_store_that_hangs_is_an_alarm_and_one_that_is_closed_is_none(made: Any) -> None:
    store, _, alarms = made
    until(lambda: len(store.held) == 3)
    store.hangs.set()
    until(lambda: all(alarms))
    assert all(each[0].startswith("their launcher has been silent") for each in alarms)
    closed, none = Store(), []
    closed.closed = True
    Heartbeat(closed, 0, 3, none.append)
    long()
    assert none == []


def test_one_that_never_beats_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", BEAT)
    alarms: list[str] = []
    Heartbeat(Store(), 0, 2, alarms.append)
    until(lambda: alarms)
    assert alarms[0].startswith("process 1 has been silent")
