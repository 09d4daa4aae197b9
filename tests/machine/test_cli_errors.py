"""Fields in errors become options of the command, and every command knows its options."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_helpers import app_for, call

from nelbo.cli.errors import in_options, on_the_command_line, option, options_of
from nelbo.errors import InputError


@pytest.mark.parametrize(
    ("field", "expected"), [("eta", "--eta"), ("batch_size", "--batch-size"), ("T", "--T"), ("n", "-n")]
)
def test_the_option_of_a_field(field: str, expected: str) -> None:
    assert option(field) == expected


@pytest.mark.parametrize("words", [["score", "RUN"], ["evaluate", "RUN"], ["sample", "RUN"], ["train", "ddpm"]])
def test_every_field_of_a_command_is_found(words: list[str]) -> None:
    known = options_of(app_for(words), words)
    assert {"--device", "--seed"} < known
    assert {"--per-image", "--T", "--k"} <= known or words[0] != "score"


def test_a_field_is_an_option_where_the_command_has_it() -> None:
    error = InputError("batch_size", "is 0; see `limit` and 'nelbo info'")
    assert on_the_command_line(error, {"--batch-size"}) == "--batch-size: is 0; see --limit and 'nelbo info'"
    assert on_the_command_line(error, {"--seed"}).startswith("batch_size: ")
    assert on_the_command_line(InputError("a, b", "…"), {"--a", "--b"}) == "--a, --b: …"
    assert in_options("`two words` and `x_0`") == "`two words` and --x-0"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("score RUN --samples 30", "--samples: is not an option of 'nelbo score', but of 'nelbo evaluate'"),
        ("score RUN --neighbours=near.png", "--neighbours: is not an option of 'nelbo score', but of 'nelbo evaluate'"),
        ("evaluate RUN --form iw", "--form: is not an option of 'nelbo evaluate', but of 'nelbo score'"),
        ("score RUN --nonsense", "Unknown option: --nonsense"),
    ],
)
def test_an_option_of_another_command_names_it(line: str, said: str, digits_run: Path) -> None:
    answer = call(*(str(digits_run) if word == "RUN" else word for word in line.split()))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"nelbo: {said}")
    assert answer.err.count("\n") == 1
