"""Mutated files: each gives a result or a clear error. ``make fuzz`` searches for more."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from fuzz_inputs import TARGETS, ends_well, seeds

CASES = sorted(Path(__file__).with_name("cases").glob("*/*"))
SPOILT = 150
MOST = 512 * 1024
"""Growth of the process in KiB; no input here is larger than 4 kB."""


def spoilt(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, cut out, repeated or put in; numbers that claim much among them."""
    found = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(0, len(found) + 1))
        length = int(random.integers(1, 9))
        match random.integers(0, 5):
            case 0:
                found[at : at + 1] = random.bytes(1)
            case 1:
                del found[at : at + length]
            case 2:
                found[at:at] = found[at : at + length]
            case 3:
                found[at : at + 4] = b"\xff\xff\xff\x7f"
            case 4:
                found[at:at] = random.choice([b"9" * 18, b"[" * 50, b"\0" * 8, b'"', b"\n", b"-1"])
    return bytes(found)


@pytest.mark.parametrize("name", TARGETS)
def test_good_files_are_read(name: str) -> None:
    assert {ends_well(name, data) for data in seeds(name)} <= {"read", "InputError"}
    assert ends_well(name, seeds(name)[0]) == "read"


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_spoilt_ends_in_a_result_or_a_clear_error(name: str) -> None:
    random = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = {ends_well(name, spoilt(data, random)) for data in seeds(name) for _ in range(SPOILT // len(seeds(name)))}
    assert ends <= {"read", "InputError", "BadImageError"}
    assert ends - {"read"}, "nothing was spoilt enough"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_found(case: Path) -> None:
    assert ends_well(case.parent.name, case.read_bytes()) in {"read", "InputError", "BadImageError"}
