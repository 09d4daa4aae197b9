"""A device without float64 trains in float32, and its runs are scored on the CPU.

Metal itself cannot be asked here. Its stand-in, under the name of ``lazy``, computes on the CPU and refuses float64.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.optim.optimizer
from machine_helpers import call, call_well
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import nelbo
import nelbo.jobs.run
import nelbo.training.machine
from nelbo.jobs import preview_budget, previews
from nelbo.jobs.preview_budget import Size
from nelbo.jobs.run import Run
from nelbo.training.checkpoint import read_checkpoint
from nelbo.training.machine import has_float64, pick_device

DEVICE = torch.device("lazy")


class Away(torch.Tensor):
    """A tensor on the stand-in; its numbers are ``inner``, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Away:
        if inner.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        away: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        away.inner = inner
        return away

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result is away if that is asked for, or if anything that goes in is."""
    own: dict[int, torch.Tensor] = {}

    def inner(away: Away) -> torch.Tensor:
        own[id(away.inner)] = away
        return away.inner

    asked = kwargs.get("device")
    args, kwargs = tree_map_only(Away, inner, (args, kwargs))
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    found = func(*args, **kwargs)
    if func is torch.ops.aten.copy_.default and id(args[0]) not in own:
        return found
    away = bool(own) if asked is None else torch.device(asked).type == DEVICE.type
    if func is torch.ops.aten._to_copy.default and away:  # another tensor, even where the CPU need not move it
        return Away(found)
    return tree_map_only(torch.Tensor, lambda x: own[id(x)] if id(x) in own else Away(x), found) if away else found


class Numbers(TorchFunctionMode):
    """What makes tensors of numbers, or numbers of tensors, is not dispatched; here it takes its way through ``to``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and "device" in kwargs:
            asked = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(asked)
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


class StandIn(TorchDispatchMode):
    """While it is entered, there is the stand-in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``--device mps`` is the stand-in."""

    def pick(name: str) -> torch.device:
        return DEVICE if name == "mps" else pick_device(name)

    monkeypatch.setattr(nelbo.training.machine, "pick_device", pick)
    monkeypatch.setattr(nelbo.jobs.run, "pick_device", pick)
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type])
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: contextlib.nullcontext())  # off there
    with StandIn(), Numbers():
        yield


def test_the_stand_in_computes_and_refuses_float64(stand_in: None) -> None:
    x = torch.tensor([1.0, 2.0], device=DEVICE).requires_grad_()
    (x * x).sum().backward()
    assert x.device == DEVICE
    assert x.grad.cpu().tolist() == [2.0, 4.0]
    assert [has_float64(device) for device in (DEVICE, torch.device("cpu"))] == [False, True]
    for wrong in (lambda: x.double(), lambda: torch.zeros(3).double().to(DEVICE), lambda: x.to(torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            wrong()


FAMILIES = {
    "ddpm": ("--widths", "8", "8", "--timesteps", "30", "--objective", "bound"),
    "vdm": ("--widths", "8", "8", "--gamma", "learned"),
    "vae": (),
    "hvae": (),
    "gan": (),
    "ae": (),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_there_as_on_the_cpu(
    stand_in: None, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps with previews between them; then the CPU goes on with the run, and so does the device with that."""
    monkeypatch.setattr(preview_budget, "FREE_SECONDS", 1e6)  # the stand-in is slow; so are its previews, but small
    monkeypatch.setattr(previews, "grid_sizes", lambda steps: [Size(4, min(steps, 4), 16)])
    monkeypatch.setattr(previews, "val_sizes", lambda timesteps: [Size(4, 1, 8)])
    given = ("--batch-size", "8", "--precision", "fp32", *FAMILIES[family])
    for device in ("cpu", "mps"):
        call_well("train", family, *given, "--steps", "3", "--device", device, "--out", tmp_path / device)
    run = tmp_path / "mps"
    assert len(list((run / "samples").iterdir())) == 3
    here, there = (read_checkpoint(Run(tmp_path / name).checkpoint).tensors for name in ("cpu", "mps"))
    assert {x.dtype for x in there["model"].values()} <= {torch.float32, torch.int64}
    for name, x in here["model"].items():
        torch.testing.assert_close(there["model"][name], x.to(there["model"][name].dtype), rtol=1e-3, atol=1e-3)
    for device in ("cpu", "mps"):
        steps = str(Run(run).step + 1)
        call_well("train", family, "--resume", "--steps", steps, "--device", device, "--out", run)
    answer = call_well("score", run, "--limit", "4", "--device", "mps", "--json")
    assert answer.err.count("lazy has no float64: scoring and sampling on the cpu") == 1


class Scaled(nn.Module):
    """A network of someone's own: the image by one number, and γ."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1, 1, 1))

    def forward(self, z: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return self.scale * z + torch.tanh(gamma.double())[:, None, None, None].to(z)


def test_a_model_from_python_and_its_student_train_there(stand_in: None, tmp_path: Path) -> None:
    model = nelbo.Diffusion(Scaled(), (1, 8, 8), 17, schedule="learned", predict="v")
    run = nelbo.fit(model, "digits", steps=2, device="mps", batch_size=4, out=tmp_path / "own")
    assert model.device == DEVICE
    assert run.sample(2, steps=2, device="cpu").shape == (2, 1, 8, 8)
    teacher = tmp_path / "teacher"
    call_well("train", "vdm", "--widths", "8", "--steps", "1", "--batch-size", "4", "--device", "cpu", "--out", teacher)
    student = tmp_path / "student"
    call_well("distill", teacher, "--steps", "2", "--train-steps", "2", "--device", "mps", "--out", student)
    assert Run(student).step == 2


@pytest.mark.parametrize("wrong", [("--precision", "fp64"), ("--precision", "bf16"), ("--compile", "on")])
def test_what_it_cannot_do_is_refused(stand_in: None, wrong: tuple[str, str], tmp_path: Path) -> None:
    answer = call("train", "ddpm", "--steps", "1", "--device", "mps", *wrong, "--out", tmp_path / "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"nelbo: {wrong[0]}: ")


def test_auto_takes_cuda_then_metal_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there_are)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there_are)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)
    there_are.append("mps")
    assert pick_device("auto").type == "mps"
    there_are.append("cuda")
    assert pick_device("auto").type == "cuda"
