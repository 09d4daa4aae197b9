"""``python -m nelbo`` and the ``nelbo`` command."""

from __future__ import annotations

import os
import sys

from nelbo.cores import settle_threads
from nelbo.processes import count
from nelbo.streams import accept_any_text


def main() -> None:
    """Run the command line and exit with its code."""
    if count() == 1:
        settle_threads(os.environ)
    from nelbo.cli import run

    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Metal cannot compute, the CPU does
    accept_any_text()
    code = run(sys.argv[1:])
    if count() > 1 or code > 128:
        # At once: threads that wait for a lost process would abort this one at exit, and after a signal nothing waits
        # for threads that still read or write.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
