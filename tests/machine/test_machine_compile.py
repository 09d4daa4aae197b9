"""torch.compile: when it is used, that results stay the same, and the errors where it is impossible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from machine_helpers import Toy, call
from torch import nn

from nelbo import rng
from nelbo.errors import InputError
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.options import TrainingOptions
from nelbo.training import Trainer
from nelbo.training.compiling import compile_networks, require_compilable, wanted

SHAPE = (1, 8, 8)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Nothing that is compiled outlives its test."""
    yield
    torch.compiler.reset()
    rng.FUSED.clear()


def with_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> list[str]:
    """Have graphs handed to this, and not to the compiler, which takes its time; returns the modes asked for."""
    asked: list[str] = []
    real = nn.Module.compile

    def noted(self: nn.Module, *, mode: str, dynamic: bool) -> None:
        asked.append(mode)
        real(self, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", noted)
    monkeypatch.setattr(rng, "fused", lambda: lambda *counter: torch.stack(rng.numbers_of(*counter), -1))
    return asked


def trained(folder: Path, **options: Any) -> Trainer:
    """Five steps of a small network."""
    torch.manual_seed(0)
    chosen = DDPMOptions(widths=(8,), blocks=1, timesteps=20).resolved(SHAPE)
    images = torch.randint(0, 17, (40, *SHAPE), dtype=torch.uint8)
    recipe = TrainingOptions(steps=5, batch_size=8, precision="fp32", device="cpu", **options)
    trainer = Trainer(DDPM.from_options(chosen, SHAPE, 17), images, recipe, folder)
    for _ in trainer:
        pass
    return trainer


def test_a_compiled_network_takes_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs that the compiler is given, run as they are, give the weights of a run without it, to the bit."""
    graphs = []

    def runs_it(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    asked = with_backend(monkeypatch, runs_it)
    plain, compiled = trained(tmp_path / "plain"), trained(tmp_path / "compiled", compile="on")
    assert asked == ["default"]
    assert len(graphs) == 1, "the network is one graph, and every step uses it"
    assert compiled.news == []
    for kind in ("model", "ema", "optimizer"):
        before, after = (trainer.checkpoint().tensors[kind] for trainer in (plain, compiled))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("why", ["there is no compiler", "tl.store: the connection timed out"])
def test_where_compiling_fails_training_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError(why)

    with_backend(monkeypatch, fails)
    plain, compiled = trained(tmp_path / "plain"), trained(tmp_path / "compiled", compile="on")
    (line,) = compiled.news
    assert not rng.FUSED
    assert line.startswith("torch.compile fails here")
    assert why in line
    for name, value in plain.model.state_dict().items():
        assert torch.equal(compiled.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({"minutes": 10}, CUDA, True),
        ({"minutes": 1}, CUDA, False),
        ({"steps": 2000}, CUDA, True),
        ({"steps": 100}, CUDA, False),
        ({"steps": 100, "compile": "on"}, CUDA, True),
        ({"minutes": 10, "compile": "off"}, CUDA, False),
        ({"minutes": 10}, CPU, False),
        ({"minutes": 1, "compile": "on"}, CPU, True),
    ],
)
def test_where_it_pays(options: dict[str, Any], device: torch.device, expected: bool) -> None:
    assert wanted(TrainingOptions(**options), device) == expected


@pytest.mark.parametrize(("alone", "expected"), [(True, "reduce-overhead"), (False, "default")])
def test_on_cuda_kernels_are_launched_as_graphs(monkeypatch: pytest.MonkeyPatch, alone: bool, expected: str) -> None:
    asked = with_backend(monkeypatch, "eager")
    model = DDPM.from_options(DDPMOptions(widths=(8,), timesteps=20).resolved(SHAPE), SHAPE, 17)
    assert compile_networks(model, TrainingOptions(minutes=10), CUDA, alone)
    assert asked == [expected]
    assert {"cuda"} == rng.FUSED


def test_what_cannot_be_compiled_is_refused_only_if_asked_for() -> None:
    asked, not_asked = TrainingOptions(minutes=10, compile="on"), TrainingOptions(minutes=10)
    assert compile_networks(Toy(), not_asked, CUDA, True) == ()
    require_compilable(Toy(), not_asked, 1)
    with pytest.raises(InputError, match=r"^compile: supports only the network of a ddpm or vdm"):
        require_compilable(Toy(), asked, 1)
    model = DDPM.from_options(DDPMOptions(widths=(8,), timesteps=20).resolved(SHAPE), SHAPE, 17)
    require_compilable(model, asked, 1)
    with pytest.raises(InputError, match=r"^compile: cannot be on with `shard`"):
        require_compilable(model, asked.model_copy(update={"shard": True}), 2)


def test_the_command_refuses_before_anything_is_written(here: Path) -> None:
    answer = call("train", "gan", "--compile", "on", "--steps", "1", "--out", "run")
    assert answer.code == 2
    assert "--compile" in answer.err
    assert not (here / "run").exists()
