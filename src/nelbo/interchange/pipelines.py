"""Read and write diffusers' folders of a ``UNet2DModel`` and a scheduler, as JSON and safetensors.

    DIR/model_index.json
    DIR/unet/config.json, diffusion_pytorch_model.safetensors
    DIR/scheduler/scheduler_config.json

A folder of the network alone needs scheduler_config.json beside config.json. Pickled weights are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nelbo.diffusion import schedules
from nelbo.errors import InputError
from nelbo.files import atomic_write, sync_folder, write_synced
from nelbo.nn.unet2d import NULLS

WEIGHTS = "diffusion_pytorch_model.safetensors"
LARGEST_JSON = 4_000_000
"""In bytes; a thousand β take 20,000."""
MOST_STEPS = 100_000
PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "beta_tilde",
    "fixed_small_log": "beta_tilde",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
    "learned_range": "learned",
}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention layers before diffusers 0.15."""


class Pipeline(NamedTuple):
    """A network and its scheduler.

    Attributes:
        network: diffusers' settings of its ``UNet2DModel``.
        tensors: its weights, float32, with its own names.
        betas: β_1 … β_T, float64, with the exact float32 values of diffusers.
        predict: the network's prediction: ``eps``, ``x0`` or ``v``.
        reverse_variance: of the reverse step: ``beta``, ``beta_tilde`` or ``learned``.
    """

    network: dict[str, Any]
    tensors: dict[str, Tensor]
    betas: Tensor
    predict: str
    reverse_variance: str


def read_pipeline(folder: Path) -> Pipeline:
    """Read a pipeline from its folder.

    Raises:
        InputError: it is not a pipeline, or a ``ddpm`` cannot represent it.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "this folder does not exist")
    unet, scheduler = folder / "unet", folder / "scheduler"
    if not unet.is_dir():
        unet = scheduler = folder
    network = read_json(unet / "config.json")
    name = network.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise InputError(f"{unet / 'config.json'}: _class_name", f"{name!r} is not supported; only UNet2DModel is")
    place = scheduler / "scheduler_config.json"
    config = read_json(place)
    return Pipeline(
        {key: value for key, value in network.items() if not key.startswith("_")},
        read_weights(unet),
        betas_of(config, place),
        chosen(config, "prediction_type", PREDICTS, "epsilon", place),
        chosen(config, "variance_type", VARIANCES, "fixed_small", place),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file does not exist, is too large, or is not a JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(str(path), f"is larger than {LARGEST_JSON:,} bytes, too large for settings")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "a pipeline with unet/ and scheduler/, or a UNet2DModel with its scheduler_config.json beside it"
        raise InputError(str(path), f"does not exist; give the folder of {what}") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(str(path), "is not a JSON object")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The network's weights in float32, under their current names.

    Raises:
        InputError: there are no safetensors, or the file is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        others = {"*.bin": "are pickled, which can run code", "*.safetensors.index.json": "are in several files"}
        why = [f"; those in {folder} {why}" for pattern, why in others.items() if any(folder.glob(pattern))]
        fix = "save it again with save_pretrained(…, safe_serialization=True)" + ", in one file" * bool(why)
        raise InputError(str(path), f"does not exist{''.join(why)}; {fix}")
    try:
        tensors = safetensors.torch.load_file(path)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise InputError(str(path), f"is damaged: {error}") from None
    return {new_name(name): value.float() for name, value in tensors.items()}


def new_name(name: str) -> str:
    """A parameter's name in diffusers since 0.15.

    >>> new_name("mid_block.attentions.0.proj_attn.weight")
    'mid_block.attentions.0.to_out.0.weight'
    """
    match = re.fullmatch(r"(.*attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    return f"{match[1]}.{OLD_NAMES.get(match[2], match[2])}.{match[3]}" if match else name


def chosen(config: Mapping[str, Any], field: str, known: Mapping[str, str], default: str, place: Path) -> str:
    """nelbo's value for one of the scheduler's settings.

    Raises:
        InputError: nelbo does not have it.
    """
    word = config.get(field) or default
    if not isinstance(word, str) or word not in known:
        raise InputError(f"{place}: {field}", f"{word!r} is not supported; supported are: {', '.join(known)}")
    return known[word]


def betas_of(config: Mapping[str, Any], place: Path) -> Tensor:
    """β_1 … β_T of a scheduler, as diffusers computes them in float32, shape (T,), float64.

    Raises:
        InputError: the schedule is not supported, or a β is not strictly between 0 and 1.
    """
    if config.get("rescale_betas_zero_snr"):
        raise InputError(f"{place}: rescale_betas_zero_snr", "makes β_T 1, but a bound needs some signal at T")
    trained = config.get("trained_betas")
    if trained is not None:
        betas = numbers(trained, f"{place}: trained_betas")
    else:
        T = config.get("num_train_timesteps", 1000)
        if type(T) is not int or not 1 <= T <= MOST_STEPS:
            raise InputError(f"{place}: num_train_timesteps", f"{T!r} is not a number from 1 to {MOST_STEPS:,}")
        ends = [config.get("beta_start", 1e-4), config.get("beta_end", 0.02)]
        first, last = numbers(ends, f"{place}: beta_start, beta_end").tolist()
        betas = named_betas(config.get("beta_schedule", "linear"), first, last, T, place)
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise InputError(str(place), "its β are not all strictly between 0 and 1")
    return betas.double()


def numbers(values: Any, where: str) -> Tensor:
    """Numbers as float32, shape (n,).

    Raises:
        InputError: the values are not numbers, or are none or too many.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_STEPS:
        raise InputError(where, f"must be a list of 1 to {MOST_STEPS:,} numbers")
    if any(type(value) not in (int, float) for value in values):
        raise InputError(where, "must be numbers")
    return torch.tensor([float(value) for value in values], dtype=torch.float64).float()


def named_betas(name: Any, first: float, last: float, T: int, place: Path) -> Tensor:
    """β of a named schedule, float32, shape (T,).

    Raises:
        InputError: the name is unknown.
    """
    if name == "linear":
        return torch.linspace(first, last, T, dtype=torch.float32)
    if name == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, T, dtype=torch.float32).square()
    if name == "squaredcos_cap_v2":
        return schedules.betas_of(schedules.Cosine().grid(T)).float()
    if name == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, T)) * (last - first) + first
    known = "linear, scaled_linear, squaredcos_cap_v2, sigmoid"
    raise InputError(f"{place}: beta_schedule", f"{name!r} is not supported; supported are: {known}")


def write_pipeline(folder: Path, pipeline: Pipeline) -> None:
    """Write a pipeline that ``DDPMPipeline.from_pretrained`` loads.

    Raises:
        OSError: it cannot be written; no files remain then.
    """
    network = {key: None if value == NULLS.get(key, ()) else value for key, value in pipeline.network.items()}
    words = {here: theirs for theirs, here in reversed((PREDICTS | VARIANCES).items())}
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(pipeline.betas),
        "trained_betas": pipeline.betas.tolist(),
        "prediction_type": words[pipeline.predict],
        "variance_type": words[pipeline.reverse_variance],
        "clip_sample": True,
    }
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in pipeline.tensors.items()}
    with atomic_write(folder) as aside:
        for part in (aside / "unet", aside / "scheduler"):
            part.mkdir(parents=True)
        write_json(aside / "model_index.json", index)
        write_json(aside / "scheduler" / "scheduler_config.json", scheduler)
        write_json(aside / "unet" / "config.json", {"_class_name": "UNet2DModel", **network})
        write_synced(aside / "unet" / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
        for part in (aside / "unet", aside / "scheduler", aside):
            sync_folder(part)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    write_synced(path, (json.dumps(values, indent=2) + "\n").encode())
