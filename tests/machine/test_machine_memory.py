"""Settings that need more memory than the machine has are refused before anything is allocated."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from machine_helpers import call, call_well, forget_settings

WIDE = f"widths = {[4096] * 16}\nblocks = 16\n"
HUGE = {
    "ddpm": f"{WIDE}fine_blocks = 16\n",
    "vae": f"{WIDE}latent = 65536\n",
    "gan": f"{WIDE}latent = 65536\n",
    "hvae": f"widths = {[4096] * 8}\ndepth = 1000\nlatent = 4096\n",
}


@pytest.mark.parametrize("family", HUGE)
@pytest.mark.parametrize("command", ["info", "sample", "score"])
def test_a_network_larger_than_the_memory_is_refused(family: str, command: str, here: Path) -> None:
    call_well("train", family, "--steps", "1", "--device", "cpu", "--out", "run")
    path = here / "run" / "config.toml"
    kept = path.read_text().split("[model]")[1].split("[training]")[0]
    path.write_text(path.read_text().replace(kept, f"\n{HUGE[family]}\n"))
    forget_settings(here / "run")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = call(command, "run")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "larger than this machine's memory" in answer.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


def test_more_resolutions_than_any_image_has_are_refused(here: Path) -> None:
    answer = call("train", "ddpm", "--widths", *["8"] * 17, "--steps", "1", "--out", "run")
    assert answer.code == 2
    assert "--widths" in answer.err
    assert not (here / "run").exists()
