"""Run a benchmark: of speed, or a study that writes a page of docs/.

python bench/run.py                     lists all
python bench/run.py NAME [OPTIONS]      NAME --help lists its options
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

ROOMS = [Path(__file__).parent / room for room in ("speed", "studies")]
SCRIPTS = {path.stem: path for room in ROOMS for path in sorted(room.glob("*.py")) if "def main(" in path.read_text()}


def listing() -> str:
    """Every benchmark, with the first line of its docstring."""
    lines = []
    for name, path in SCRIPTS.items():
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"{path.parent.name:8} {name:16} {about.splitlines()[0]}")
    return "\n".join(lines)


def main() -> None:
    """Run the named benchmark with its options; without a name, list all."""
    names = sys.argv[1:2]
    if not names or names[0] in ("--list", "--help", "-h"):
        print(listing())
        return
    if names[0] not in SCRIPTS:
        sys.exit(f"{names[0]!r} is none of {', '.join(SCRIPTS)}")
    sys.path += [str(room) for room in ROOMS]
    sys.argv = [f"bench/run.py {names[0]}", *sys.argv[2:]]
    runpy.run_path(str(SCRIPTS[names[0]]), run_name="__main__")


if __name__ == "__main__":
    main()
