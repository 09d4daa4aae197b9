"""The commands and their exit codes: 0 done, 2 unusable input (one line), 1 other errors, 130 or 143 a signal."""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout

import cyclopts
from cyclopts import App, Parameter

from nelbo import __version__
from nelbo.cli.errors import in_options, on_the_command_line, option, option_word, options_of, others_option
from nelbo.cli.families import train_app
from nelbo.cli.help import COMMANDS
from nelbo.cli.stopping import Stopped, stopping
from nelbo.errors import InputError
from nelbo.processes import GO_ON, ElsewhereError, ProcessLostError, count, leave, rank
from nelbo.streams import Speaker, close_quietly

SHARED = {"train", "distill", "sample", "score", "classify", "evaluate", "compare"}
"""Commands that divide their work between the processes of a launcher."""
PATIENCE = 2.0
HELP = """Train, sample, score and compress images with generative models whose bounds you can check.

```
nelbo train ddpm --data digits --minutes 2 --out runs/first
nelbo score runs/first
nelbo sample runs/first --out digits.png
```

Every command has a --help with examples. RUN is the directory that 'train' made.
"""


def build_app(argv: Sequence[str]) -> App:
    """All commands. A command imports its modules when it runs, so that ``--help`` is fast."""
    options = Parameter(consume_multiple=True, negative_iterable=(), name_transform=option_word)
    app = App(
        name="nelbo",
        help=HELP,
        help_format="markdown",
        version=__version__,
        default_parameter=options,
        result_action="return_none",
        suppress_keyboard_interrupt=False,
    )
    app.command(train_app(argv))
    for name, text in COMMANDS.items():
        function = "import_" if name == "import" else name
        app.command(f"nelbo.cli.commands:{function}", name=name, help=text)
    return app


def run(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code.

    Of a launcher's processes, only the main one prints, and only it runs commands that are not shared.
    """
    if count() > 1:  # hide messages of torch.distributed
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    Speaker.wording.append(in_options)
    try:
        if rank() == 0:
            return answered(argv)
        if not set(argv[:1]) & SHARED:
            return 0
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return answered(argv)
    finally:
        Speaker.wording.remove(in_options)


def answered(argv: Sequence[str]) -> int:
    """Run a command line in this process; returns the exit code."""
    app = App()
    try:
        app = build_app(argv)
        with stopping():
            app(list(argv), exit_on_error=False, print_error=False)
        leave()
        sys.stdout.flush()  # here, so that a closed pipe or a full disk is handled below
    except InputError as error:
        return complain(on_the_command_line(error, options_of(app, argv)))
    except cyclopts.CycloptsError as error:
        return complain(others_option(app, error) or one_line(error))
    except Stopped as error:
        return complain(str(error), 128 + error.signum)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        close_quietly(sys.stdout)
        return 0
    except OSError as error:
        if os.environ.get("NELBO_TRACEBACK"):
            raise
        return complain_of_file(error)
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            if rank() == 0:
                say(f"{error}; continue with --resume")
            return 128 + int(error.signum)  # type: ignore[attr-defined]
        if isinstance(error, ElsewhereError):
            return error.code
        if isinstance(error, ProcessLostError):
            return complain(in_options(f"{error}{GO_ON}"), 1)
        if isinstance(error, FloatingPointError):  # training has diverged; the message has a remedy
            return complain(in_options(str(error)), 1)
        if os.environ.get("NELBO_TRACEBACK"):
            raise
        return complain(f"{type(error).__name__}: {error} (NELBO_TRACEBACK=1 shows where)", 1)
    return 0


def complain(message: str, code: int = 2) -> int:
    """Print one line on stderr; returns the exit code.

    All processes may have the same error. The others wait, so that the main process prints first and the launcher ends
    them.
    """
    if rank():
        time.sleep(PATIENCE)
        message = f"process {rank()} on {platform.node()}: {message}"
    say(" ".join(message.split()))
    return code


def say(line: str) -> None:
    """Print one line on stderr, if possible."""
    try:
        print(f"nelbo: {line}", file=sys.stderr, flush=True)
    except OSError:
        close_quietly(sys.stderr)


def complain_of_file(error: OSError) -> int:
    """Print the file and the system's message on one line; returns 1 for an error of the disk, else 2."""
    place = f"{error.filename}: " if error.filename else ""
    code = 1 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or not place else 2
    return complain(f"{place}{error.strerror or error}", code)


def one_line(error: cyclopts.CycloptsError) -> str:
    """The error of a command line, with its option."""
    cause = error.__cause__
    if isinstance(error, cyclopts.ValidationError) and type(cause).__name__ == "ValidationError":
        from nelbo.check import first_problem

        field, problem = first_problem(cause)  # type: ignore[arg-type]
        return f"{option(field)}: {problem}"
    text = str(error)
    unused = re.match(r"Unused Tokens: \[(.*)\]", text)
    if unused:
        return f"{unused[1]}: is not an argument of this command; see --help"
    return text
