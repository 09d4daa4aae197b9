"""Coverage-guided fuzzing of all files that nelbo reads. It is not a test: it needs atheris and time.

    make fuzz                                                   every kind of file, 5 minutes each
    .venv-fuzz/bin/python tests/fuzz/fuzz.py idx --seconds 60   one of them

Fuzzing of a kind stops at an input that gives neither a result nor a clear error, takes longer than 10 seconds, or
needs more than 2 GiB. The input is saved in tests/fuzz/cases, which ``make test`` reads.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = Path(__file__).with_name("cases")
MOST_MEBIBYTES, MOST_SECONDS = 2048, 10
READERS = ["nelbo", "numpy.lib", "zipfile", "gzip", "tomllib", "json", "safetensors", "PIL"]


def fuzz(name: str, words: list[str]) -> None:
    """This process becomes the fuzzer of one kind, told which lines of the readers each input reaches."""
    import atheris

    with atheris.instrument_imports(include=READERS):
        from fuzz_inputs import ends_well

    def once(data: bytes) -> None:
        ends_well(name, data)

    atheris.Setup([sys.argv[0], *words], once)
    atheris.Fuzz()


def run(name: str, seconds: int) -> tuple[int, int, list[str]]:
    """Executions, inputs that reached something new, and the names of what was found."""
    from fuzz_inputs import seeds

    found = CASES / name
    found.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in found.iterdir()}
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(name)):
            (Path(corpus) / f"seed-{number}").write_bytes(data)
        words = [
            corpus,
            str(found),
            f"-max_total_time={seconds}",
            f"-rss_limit_mb={MOST_MEBIBYTES}",
            f"-timeout={MOST_SECONDS}",
            f"-artifact_prefix={found}/",
            "-max_len=4096",
            "-print_final_stats=1",
        ]
        command = [sys.executable, __file__, name, "--as-fuzzer", *words]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        fresh = sum(1 for _ in Path(corpus).iterdir()) - len(seeds(name))
    new = sorted({path.name for path in found.iterdir()} - before)
    if executions is None or (done.returncode and not new):
        raise RuntimeError(f"{name}: the fuzzer itself failed\n{done.stderr[-3000:]}")
    for path in new:
        print(done.stderr[-3000:], file=sys.stderr)
        print(f"kept: {found / path}", file=sys.stderr)
    return int(executions[1]), fresh, new


def main() -> int:
    """Fuzz, and print a table."""
    if sys.argv[2:3] == ["--as-fuzzer"]:
        fuzz(sys.argv[1], sys.argv[3:])
        return 0
    from fuzz_inputs import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--seconds", type=int, default=300)
    given = parser.parse_args()
    print("| input | seconds | executions | reached something new | ended otherwise |\n| --- | --- | --- | --- | --- |")
    bad = False
    for name in given.names or TARGETS:
        start = time.monotonic()
        executions, fresh, new = run(name, given.seconds)
        bad |= bool(new)
        ended = ", ".join(new) or "none"
        print(f"| {name} | {time.monotonic() - start:.0f} | {executions:,} | {fresh:,} | {ended} |", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
