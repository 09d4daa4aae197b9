"""The layout: a file imports from its own room and from lower floors, and slow imports are not at the top."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nelbo.config.families import OURS

SOURCE = Path(__file__).parents[2] / "src" / "nelbo"

FLOORS = [
    ["errors", "limits", "torch_settings"],
    ["check", "cores", "course", "files", "options", "processes", "rng", "units", "streams", "watching"],
    ["theory"],
    ["diffusion"],
    ["nn"],
    ["models", "editing"],
    ["data", "metrics"],
    ["training"],
    ["report", "codec", "interchange"],
    ["config"],
    ["jobs"],
    ["studio"],
    ["cli"],
    ["__init__", "__main__"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))
FAMILIES = [SOURCE / "models" / f"{name}.py" for name in OURS]


def room_of(path: Path) -> str:
    """The room a file is in: its folder under nelbo, or itself."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> set[str]:
    """Every nelbo module that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found |= {f"{node.module}.{a.name}" if node.module == "nelbo" else str(node.module) for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "nelbo"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_downwards(path: Path) -> None:
    own = room_of(path)
    assert own in FLOOR_OF, f"{own} has no floor; give it one here and in CONTRIBUTING.md"
    for name in imported(path):
        room = name.split(".")[1] if "." in name else "__init__"
        if room in ("__version__", "__init__"):
            continue
        assert room == own or FLOOR_OF[room] < FLOOR_OF[own], f"{own} imports {name}, which is not on a lower floor"


@pytest.mark.parametrize("path", FAMILIES, ids=lambda p: p.stem)
def test_a_family_imports_no_other_family(path: Path) -> None:
    """But for presets, which are diffusion models with settings of their own."""
    others = {f"nelbo.models.{p.stem}" for p in FAMILIES if p != path and p.stem != "diffusion"}
    assert not imported(path) & others


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_ln_2_stands_in_units_alone(path: Path) -> None:
    if path.stem == "units":
        return
    text = path.read_text(encoding="utf-8")
    for spelling in ("log(2)", "log(2.0)", "LN_2", "log2(", "0.693"):
        assert spelling not in text, f"{path.name} knows bits; only units does"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pickle_and_no_torchvision(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    forbidden = (
        r"import pickle|(?<!safetensors\.)torch\.(load|save)\b|allow_pickle=True|torchvision|(?<!\.)\b(eval|exec)\("
    )
    assert re.search(forbidden, text) is None


def test_floors_stand_in_contributing() -> None:
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in {room_of(path) for path in FILES} - {"__init__", "__main__"}:
        assert f"`{room}`" in text, f"CONTRIBUTING.md does not say what {room} is for"


@pytest.mark.parametrize("module", ["nelbo", "nelbo.cli.app", "nelbo.config.families", "nelbo.options"])
def test_the_front_door_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_waits_for_nothing_that_it_does_not_print() -> None:
    """Neither for what computes nor for what reads and checks options: these take longer to import than all else."""
    code = (
        "import sys; from nelbo.cli.app import run; run(['--help']);"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_drawing_waits_for_nothing_that_only_measuring_needs() -> None:
    """These take longer to import than a small model takes to draw."""
    code = (
        "import sys, nelbo.jobs.sample;"
        "sys.exit(bool({'scipy', 'sklearn', 'matplotlib', 'torchdiffeq', 'torch._dynamo'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
