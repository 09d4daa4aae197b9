"""One thread in every test and in every process that a test starts: networks are tiny, and two test processes share two
cores. Threads that wait for each other on a busy machine make small models hundreds of times slower."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
