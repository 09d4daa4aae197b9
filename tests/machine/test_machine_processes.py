"""Several processes give the results of one: weights, samples, scores; if one is lost, the others stop.

The division of a batch only changes the order of float64 sums, so weights differ by rounding: 1e-16 per step, which 200
steps of training can amplify some thousand times. 1e-8 is far above that, and far below any other difference.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from machine_helpers import TINY, call, call_well, tiny
from processes_helpers import ended, free_port, shared, started

from nelbo.diffusion.schedules import LearnedGamma
from nelbo.jobs.run import Run
from nelbo.processes import ALONE, Team, place
from nelbo.rng import Stream, normal
from nelbo.training import latest_checkpoint, read_checkpoint

LONG = "NELBO_KILLS" in os.environ
"""Whether all that takes its time is wanted: make test-kill."""
STEPS = 200
SAME = 1e-8
DOUBLE = ["--precision", "fp64", "--batch-size", "8", "--device", "cpu"]
SMALL = {
    "vdm": ["--widths", "8", "8"],
    "ddpm": ["--widths", "8", "8", "--timesteps", "30"],
    "hvae": ["--widths", "8", "8", "--depth", "3", "--latent", "2", "--free-bits", "0.5"],
    "gan": ["--widths", "8", "8", "--latent", "4", "--clusters", "5"],
    "vae": ["--widths", "8", "8", "--latent", "4", "--binarize", "--free-bits", "0.1"],
    "ae": ["--widths", "8", "8", "--latent", "4"],
}
"""Each has something that one process of many cannot know of its own images alone: the loss over t, a mean of the
batch, a penalty at some steps, clusters, noise of the data."""


def furthest(one: Path, other: Path) -> float:
    """The greatest difference between two runs' last weights, of the model and of the average."""
    a, b = (read_checkpoint(latest_checkpoint(run) or run).tensors for run in (one, other))
    return max(
        float((a[part][name].double() - b[part][name].double()).abs().max())
        for part in ("model", "ema")
        for name in a[part]
    )


@pytest.mark.parametrize(("total", "count"), [(total, count) for total in (0, 1, 4, 7, 12) for count in (1, 2, 3, 5)])
def test_shares_are_all_of_it_once(total: int, count: int) -> None:
    shares = [list(Team(rank, count).share(total)) for rank in range(count)]
    if total < count:
        assert shares == [list(range(total))] * count
    else:
        assert list(chain(*shares)) == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_noise_is_identical_in_every_share() -> None:
    """To the bit, whichever process draws it, also where n is not divisible."""
    whole = normal(3, Stream.SAMPLE, 5, range(10), (2, 4))
    for count in (1, 2, 3):
        parts = [normal(3, Stream.SAMPLE, 5, Team(rank, count).share(10), (2, 4)) for rank in range(count)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_process_has_a_device_of_its_own_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert [place(devices) for devices in (8, 4, 1, 0)] == [5, 1, 0, 0]


def test_one_alone_is_a_team() -> None:
    rows = torch.arange(6.0)
    assert ALONE.together(rows, 6) is rows
    assert ALONE.greatest([1.0, -2.0]) == [1.0, -2.0]
    assert ALONE.from_main(lambda: b"it") == b"it"
    assert ALONE.mean(rows) is rows


@pytest.mark.parametrize("family", SMALL if LONG else ["vdm"])
def test_two_processes_take_the_steps_of_one(here: Path, family: str) -> None:
    words = ["train", family, *SMALL[family], *DOUBLE, "--steps", str(STEPS), "--out"]
    call_well(*words, "one")
    shared(2, *words, "two")
    assert furthest(here / "one", here / "two") < SAME
    start = [*words[: words.index("--steps")], "--steps", "1", "--out"]
    call_well(*start, "start")
    assert furthest(here / "one", here / "start") > 1e-3, "200 steps have moved the weights"


@pytest.mark.parametrize("family", SMALL if LONG else ["gan"])
def test_weights_in_shares_take_the_same_steps(here: Path, family: str) -> None:
    """A third of the way by two processes with shares, one by three, and the last by one that has all of it."""
    words = ["train", family, *SMALL[family], *DOUBLE, "--lr", "0.001", "--decay", "0", "--steps"]
    call_well(*words, "90", "--out", "one")
    shared(2, *words, "30", "--shard", "--out", "parts")
    shared(3, *words, "60", "--shard", "--resume", "--out", "parts")
    call_well(*words, "90", "--resume", "--out", "parts")
    assert furthest(here / "one", here / "parts") < SAME


def test_a_learned_gamma_is_kept_whole_beside_shares(here: Path) -> None:
    """It is of float64 beside float32, whose rounding of 1e-7 a step is what two processes may differ by after 20."""
    words = ["train", "vdm", *SMALL["vdm"], "--gamma", "learned", "--batch-size", "8", "--precision", "fp32"]
    words += ["--clip", "0.01", "--lr", "0.001", "--warmup", "20", "--steps", "20", "--device", "cpu", "--out"]
    call_well(*words, "one")
    shared(2, *words, "two", "--shard")
    gamma = [Run(here / name).model("raw", "cpu").schedule.state_dict() for name in ("one", "two")]
    start = LearnedGamma(-13.3, 8.0).state_dict()
    for name, value in gamma[0].items():
        assert float((value - start[name]).abs().max()) > 1e-4, "it has moved"
        torch.testing.assert_close(gamma[1][name], value, rtol=0, atol=1e-5)
    assert furthest(here / "one", here / "two") < 1e-4


HOW_MUCH = """
import sys
from nelbo.cli import run
from nelbo.training import loop
from nelbo.training.shards import to_local
keep = loop.Trainer.keep
def keep_and_tell(self, must):
    keep(self, must)
    weights = sum(to_local(p).numel() for p in self.model.parameters())
    moments = sum(to_local(x).numel() for o in self.optimizers for entry in o.state.values() for x in entry.values())
    averages = sum(to_local(x).numel() for x in self.ema.averages)
    print("share", weights, moments, averages, file=sys.stderr, flush=True)
loop.Trainer.keep = keep_and_tell
sys.exit(run(sys.argv[1:]))
"""


def test_a_share_is_a_share(here: Path) -> None:
    """Two processes keep all of it together; each about half: parameters are cut by rows, of which some have one."""
    words = ["train", "vdm", *SMALL["vdm"], "--steps", "2", "--device", "cpu", "--out"]
    kept = {}
    for name, count, more in (("alone", 1, ()), ("shares", 2, ("--shard",))):
        answers = ended(started(count, *words, name, *more, code=HOW_MUCH))
        assert all(answer.code == 0 for answer in answers), answers
        lines = [next(line for line in answer.err.splitlines() if line.startswith("share")) for answer in answers]
        kept[name] = np.array([[int(number) for number in line.split()[1:]] for line in lines])
        assert ("sharded" in answers[0].err) == (count > 1)
    assert (kept["shares"].sum(0)[[0, 2]] == kept["alone"][0][[0, 2]]).all()
    assert (kept["shares"] / kept["alone"]).max() < 0.6


def losses(run: Path) -> list[float]:
    """The losses that a run has logged."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_three_processes_with_uneven_shares_and_the_same_losses(here: Path) -> None:
    """Batches of 8 in shares of 2, 3 and 3. In float32 rounding is 1e-7 a step, and the loss curve is the same."""
    words = ["train", "vdm", *SMALL["vdm"], "--batch-size", "8", "--precision", "fp32", "--steps", "60", "--out"]
    call_well(*words, "one")
    shared(3, *words, "three")
    one, three = losses(here / "one"), losses(here / "three")
    assert len(one) == 6  # every tenth step
    assert three == pytest.approx(one, rel=1e-4)


def test_samples_and_scores_are_those_of_one(digits_run: Path, here: Path) -> None:
    """Batches are cut elsewhere, so that convolutions round elsewhere: single levels may differ, and no more."""
    run = shutil.copytree(digits_run, here / "run")
    for count in (1, 2, 3):
        shared(count, "sample", run, "-n", "10", "--out", f"{count}.npz")
        page = ("--false-alarms", "0.05", "--worst", "2", "--out", f"{count}.html", "--timesteps", "2")
        shared(count, "score", run, "--limit", "10", *page, "--per-image", f"{count}.csv", "--again")
        assert Path(f"{count}.html").exists()
    shared(2, "sample", run, "-n", "3", "--steps", "3", "--out", "two.gif")
    assert Path("two.gif").stat().st_size > 0
    images = [np.load(f"{count}.npz")["images"] for count in (1, 2, 3)]
    rows = [list(csv.reader(Path(f"{count}.csv").read_text().splitlines()))[1:] for count in (1, 2, 3)]
    tables = [[[float(cell) for cell in row[4:]] for row in table] for table in rows]
    for other in (1, 2):
        assert images[other].shape == images[0].shape == (10, 8, 8, 1)
        assert (images[other] != images[0]).mean() <= 0.001
        np.testing.assert_allclose(tables[other], tables[0], rtol=1e-5, atol=2e-6)  # written with six digits


def test_what_is_scored_by_samples_and_compared_is_that_of_one(digits_run: Path, here: Path) -> None:
    call_well("features", "--epochs", "1", "--out", "features")
    found = []
    for count in (1, 2):
        run = shutil.copytree(digits_run, here / f"run-{count}")
        words = ["--samples", "21", "--steps", "3", "--features", "features", "--json"]
        found.append(json.loads(shared(count, "evaluate", run, *words).out))
        shared(count, "compare", run, "--out", f"page-{count}")
    assert found[1]["modes"]["counts"] == found[0]["modes"]["counts"]
    for name, value in found[0]["quality"].items():
        if value.get("value") is not None:
            assert found[1]["quality"][name]["value"] == pytest.approx(value["value"], rel=1e-3, abs=1e-3), name
    pages = [json.loads((here / f"page-{count}" / "compare.json").read_text()) for count in (1, 2)]
    one, two = (page["runs"][0]["diffusion_profile"] for page in pages)
    assert two["edges"] == one["edges"]
    for name in ("bits", "stderr"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)


@pytest.mark.skipif(not LONG, reason="make test-kill")
@pytest.mark.parametrize("family", ["gan", "ae"])
def test_what_a_family_without_a_bound_measures_is_that_of_one(here: Path, family: str) -> None:
    """Also the samples that a gan draws beside the images: 21 of them, in shares of 10 and 11."""
    call_well("train", family, *SMALL[family], "--steps", "20", "--out", "run")
    words = ["score", "run", "--limit", "21", "--again", "--json"]
    one, two = (json.loads(shared(count, *words).out)["measures"] for count in (1, 2))
    assert one.keys() == two.keys()
    for name, found in one.items():
        assert two[name]["value"] == pytest.approx(found["value"], rel=1e-5), name
        assert two[name]["stderr"] == pytest.approx(found["stderr"], rel=1e-4), name


def until_more(metrics: Path, size: int, processes: list[subprocess.Popen[str]]) -> None:
    """Wait until this file is larger; where a process has ended before, none is left behind."""
    while not (metrics.exists() and metrics.stat().st_size > size):
        if any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            raise AssertionError(ended(processes))
        time.sleep(0.1)


ENDLESS = ["train", "ddpm", *TINY, "--resume", "--out", "run", "--steps"]


@pytest.mark.parametrize("lost", [0, 1] if LONG else [0], ids="process {} is killed".format)
def test_where_one_is_killed_the_others_stop_and_any_number_goes_on(here: Path, lost: int) -> None:
    call_well(*ENDLESS, "3")
    processes = started(2, *ENDLESS, "100000")
    metrics = here / "run" / "metrics.jsonl"
    until_more(metrics, metrics.stat().st_size, processes)
    processes[lost].kill()
    killed = time.monotonic()
    answers = ended(processes)
    assert time.monotonic() - killed < 60
    assert answers[lost].code == -signal.SIGKILL
    left = answers[1 - lost]
    assert left.code == 1
    assert "another process of this run has stopped" in left.err.splitlines()[-1]
    assert "--resume" in left.err.splitlines()[-1]
    step = json.loads(metrics.read_text().splitlines()[-1])["step"]
    done = json.loads(call_well("info", "run", "--json").out)["step"]
    assert done <= step
    shared(3, *ENDLESS, str(done + 4))
    call_well(*ENDLESS, str(done + 6))


@pytest.mark.skipif(not LONG, reason="make test-kill")
@pytest.mark.parametrize("lost", [0, 1])
def test_one_that_vanishes_is_missed_within_a_minute(here: Path, lost: int) -> None:
    """Stopped and not killed: its connections stay open, and are silent, as those of a machine without power."""
    processes = started(2, *ENDLESS, "100000")
    until_more(here / "run" / "metrics.jsonl", 0, processes)
    processes[lost].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        (left,) = ended([processes[1 - lost]])
        assert time.monotonic() - stopped < 60
    finally:
        processes[lost].kill()
        processes[lost].communicate()
    assert left.code == 1
    assert re.search(r"another process .* has been silent for 40 seconds.*--resume", left.err.splitlines()[-1])
    assert call_well(*ENDLESS, str(1 + json.loads(call_well("info", "run", "--json").out)["step"]))


def test_a_run_that_changes_its_processes_ends_as_one_that_does_not(here: Path) -> None:
    """Two processes, stopped by SIGTERM after a checkpoint; then one; then three."""
    words = ["train", "vdm", *SMALL["vdm"], *DOUBLE, "--steps"]
    call_well(*words, "200", "--out", "straight")
    processes = started(2, *words, "200", "--out", "run")
    metrics = here / "run" / "metrics.jsonl"
    until_more(metrics, 0, processes)
    processes[1].send_signal(signal.SIGTERM)  # a machine is about to go: all of them stop, and the main one keeps
    main, other = ended(processes)
    assert (main.code, other.code) == (143, 143), (main, other)
    assert "continue with --resume" in main.err
    assert other.err == ""
    step = json.loads(call_well("info", "run", "--json").out)["step"]
    assert 0 < step < 200
    with started(1, *words, "200", "--resume", "--out", "run")[0] as again:
        while json.loads(metrics.read_text().splitlines()[-1])["step"] <= step + 10:
            time.sleep(0.05)
        again.send_signal(signal.SIGTERM)
        again.communicate()
    assert step < json.loads(call_well("info", "run", "--json").out)["step"] < 200
    shared(3, *words, "200", "--resume", "--out", "run")
    assert furthest(here / "straight", here / "run") < SAME


def test_what_cannot_be_used_is_said_once(here: Path) -> None:
    for words in (
        ["train", "ddpm", *tiny("--batch-size"), "--batch-size", "1", "--out", "run"],
        ["train", "ddpm", "--data", "nothing"],
        ["train", "ddpm", "--lr", "fast"],
        ["sample", "no-run"],
    ):
        processes = started(2, *words)
        out, err = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert not Path("run").exists()
        processes[1].kill()  # as a launcher would, at once
        processes[1].communicate()


def test_a_process_with_other_images_is_refused(here: Path) -> None:
    """Two machines, each with a file of its own under the same name."""
    for name, seed in (("one", 0), ("two", 1)):
        (here / name).mkdir()
        images = np.random.default_rng(seed).integers(0, 255, (20, 8, 8), dtype=np.uint8)
        np.save(here / name / "images.npy", images)
    port, processes = str(free_port()), []
    for rank, name in enumerate(("one", "two")):
        words = ["train", "ddpm", *TINY, "--data", "images.npy", "--steps", "2", "--out", str(here / f"run-{rank}")]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", MOVED, *words],
                cwd=here / name,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            )
        )
    answers = ended(processes)
    assert [answer.code for answer in answers] == [1, 2], answers
    assert "process 1 on" in answers[1].err
    assert "--data" in answers[1].err


MOVED = """
import sys
from pathlib import Path
from nelbo.__main__ import main
from nelbo.jobs import settings, training
read = settings.read_data
def read_here(options):
    return read(options.model_copy(update={"data": str(Path.cwd() / Path(options.data).name)}))
settings.read_data = training.read_data = read_here
main()
"""
"""A machine where the same path leads to other images."""


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate launch --use_fsdp": ["accelerate.commands.launch", "--use_fsdp", "--num_processes", "2"],
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.mark.parametrize("name", LAUNCHERS if LONG else list(LAUNCHERS)[:2])
def test_launchers(here: Path, name: str) -> None:
    """The same command line under a launcher; the answer stands alone on stdout."""
    launcher = LAUNCHERS[name]
    more = ["--main_process_port", str(free_port())] if "accelerate" in launcher[0] else []
    words = ["-m", "nelbo", "train", "ddpm", *TINY, "--steps", "3", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *more, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run\n"
    assert f"3 steps on 2 processes, {'sharded, ' * ('--use_fsdp' in launcher)}cpu" in done.stderr
    assert call("sample", "run", "-n", "4", "--out", "four.png").code == 0


HOSTS = ("10.213.71.1", "10.213.71.2")


def namespaces() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "nelbo-try"], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", "nelbo-try"], check=True)
    return made


@pytest.mark.skipif(not namespaces(), reason="needs the right to make network namespaces")
def test_two_machines(here: Path) -> None:
    """Two network namespaces with addresses of their own, joined by a cable, and torchrun on each."""
    run = f"{os.getpid() % 10000}"
    names = [f"nelbo-{run}-{n}" for n in (0, 1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for name in names:
            ip("netns", "add", name)
            (here / name).mkdir()
        ip("link", "add", f"n{run}a", "netns", names[0], "type", "veth", "peer", "name", f"n{run}b", "netns", names[1])
        for name, link, host in zip(names, (f"n{run}a", f"n{run}b"), HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{host}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        words = ["train", "vdm", *SMALL["vdm"], *DOUBLE, "--steps", str(STEPS), "--out"]
        launcher = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launcher += ["--master-addr", HOSTS[0], "--master-port", "29511"]
        nelbo = ["-m", "nelbo", *words, "two"]
        machines = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", *launcher, f"--node-rank={rank}", *nelbo],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=here / name,  # no disk is shared
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link},
            )
            for rank, (name, link) in enumerate(zip(names, (f"n{run}a", f"n{run}b"), strict=True))
        ]
        answers = ended(machines)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
    assert [answer.code for answer in answers] == [0, 0], answers
    call_well(*words, "one")
    assert not (here / names[1] / "two").exists()
    assert furthest(here / "one", here / names[0] / "two") < SAME


EMPTY = """
import sys
import nelbo.training.machine as machine
import nelbo.training.gradients as gradients
from nelbo.cli import run
machine.LARGE = 4000
shard = gradients.shard
def shard_and_tell(losses, team, place):
    print("empty", sum(p.is_meta for p in losses.parameters()), file=sys.stderr, flush=True)
    return shard(losses, team, place)
gradients.shard = shard_and_tell
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("family", ["vdm", "gan"])
def test_only_the_main_process_builds_a_model_that_is_sharded(here: Path, family: str) -> None:
    """Tensors of more than 4 kB have no memory in the other process before they are sharded, and the values arrive."""
    words = ["train", family, *SMALL[family], *DOUBLE, "--steps", "3", "--out"]
    call_well(*words, "one")
    answers = ended(started(2, *words, "two", "--shard", code=EMPTY))
    assert all(answer.code == 0 for answer in answers), answers
    counts = [int(next(line for line in answer.err.splitlines() if "empty" in line).split()[1]) for answer in answers]
    assert counts[0] == 0
    assert counts[1] > 0
    assert furthest(here / "one", here / "two") < SAME
