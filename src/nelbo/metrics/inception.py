"""Inception's pool-3 features, in which FID is defined (Heusel et al. 2017), by the package torch-fidelity.

nelbo includes neither the package nor the weights, and does not download them; both must be installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nelbo.errors import InputError

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
OPTION = "`features` inception"


def to_rgb(x: Tensor, levels: int) -> Tensor:
    """Integer levels, shape (B, 1 or 3, H, W) → uint8 of 256 levels, shape (B, 3, H, W).

    >>> to_rgb(torch.tensor([[[[0, 8, 16]]]]), 17)[0, :, 0].tolist()
    [[0, 128, 255], [0, 128, 255], [0, 128, 255]]
    """
    grey = (x.double() * (255 / (levels - 1))).round().to(torch.uint8)
    return grey.expand(-1, 3, -1, -1)


def inception(channels: int, levels: int, device: torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
    """The network from integer levels to features, and the hash of its weights.

    Args:
        channels: 1 or 3.
        levels: L.
        device: the device of the network.

    Returns:
        (B, C, H, W) → (B, 2048), and the SHA-256 of the weights' file.

    Raises:
        InputError: the number of channels is not 1 or 3, or the package or its weights are missing.
    """
    if channels not in (1, 3):
        raise InputError(OPTION, f"needs grey or RGB images, but these have {channels} channels")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        raise InputError(OPTION, f"needs the package torch-fidelity, which cannot be imported: {error}") from None
    weights = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not weights.is_file():
        raise InputError(OPTION, f"needs torch-fidelity's weights in {weights}")
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
    network = network.to(device).eval()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return lambda x: network(to_rgb(x, levels).to(device))[0], digest
