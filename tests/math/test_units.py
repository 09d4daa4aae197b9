"""Nats and bits, against scipy's entropies in base 2."""

import numpy as np
import pytest
from scipy.stats import entropy

from nelbo.units import bits_per_dim, uniform_bits


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("dims", [1, 784])
def test_bits_per_dim_is_the_entropy_in_base_2(levels: int, dims: int) -> None:
    p = np.random.default_rng(levels).dirichlet(np.ones(levels))
    # D independent pixels of law p: D times the entropy in nats. Both sides are a few roundings from the truth.
    assert bits_per_dim(dims * float(entropy(p)), dims) == pytest.approx(float(entropy(p, base=2)), rel=1e-14)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_the_uniform_code_is_the_entropy_of_the_uniform_law(levels: int) -> None:
    assert uniform_bits(levels) == pytest.approx(float(entropy(np.ones(levels), base=2)), rel=1e-14)
