"""What holds in every test: one thread, in it and in every process that it starts, and torch as it was found.

Networks are tiny, and two test processes share two cores. Threads that wait for each other on a busy machine make small
models hundreds of times slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """A test that changes a setting of torch for good fails, and not the tests after it."""
    yield
    found = {"default dtype": torch.get_default_dtype(), "threads": torch.get_num_threads()}
    found["gradients"] = torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    assert found == {"default dtype": torch.float32, "threads": 1, "gradients": True}
