"""The autoencoder: its loss, and the Gaussian of its codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nelbo.errors import InputError
from nelbo.models.ae import AE, AEOptions
from nelbo.models.sampling import SampleSettings
from nelbo.rng import Draws

CPU = torch.device("cpu")


def ae(shape: tuple[int, int, int] = (1, 4, 4), levels: int = 17, **settings: object) -> AE:
    torch.manual_seed(0)
    options = AEOptions.model_validate({"latent": 3, "widths": (8, 8)} | settings).resolved(shape)
    return AE.from_options(options, shape, levels)


def images(n: int, shape: tuple[int, int, int] = (1, 4, 4)) -> Tensor:
    return torch.randint(0, 17, (n, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def draws(n: int, step: int = 0) -> Draws:
    return Draws(0, step, range(n), n, CPU)


def test_the_loss_is_the_mean_squared_error() -> None:
    model, x = ae().eval(), images(6)
    x_0 = x.float() / 8 - 1
    expected = torch.stack([torch.nn.functional.mse_loss(model.decode(model.encode(x_0))[i], x_0[i]) for i in range(6)])
    torch.testing.assert_close(model.loss(x, draws(6)), expected)
    torch.testing.assert_close(model.inspector.measures(x, batch=4)["squared_error"], expected)


def test_the_first_hundred_batches_weigh_alike() -> None:
    """Mean and covariance of all codes so far, from numpy; in float64."""
    model, codes = ae(), torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0)).double() * 2 + 1
    for batch in codes:
        model._remember(batch)
    every = codes.reshape(-1, 3)
    torch.testing.assert_close(model.code_mean, every.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.code_cov, torch.cov(every.T, correction=0), rtol=1e-10, atol=1e-10)


def test_old_codes_are_forgotten() -> None:
    """After 2,000 batches of another law, 0.99^2000 = 2e-9 of the first is left."""
    model = ae()
    for _ in range(50):
        model._remember(torch.full((4, 3), 100.0).double())
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        model._remember(torch.randn(64, 3, generator=generator).double())
    # The last hundred batches count: 6,400 codes, an error of some 1/80 in the mean and 1/57 in a variance.
    assert float(model.code_mean.abs().max()) < 0.06
    torch.testing.assert_close(model.code_cov, torch.eye(3).double(), rtol=0, atol=0.08)


def test_only_training_moves_the_codes_law() -> None:
    model, x = ae(), images(8)
    model.eval().loss(x, draws(8))
    assert float(model.seen) == 0
    model.train().loss(x, draws(8))
    assert float(model.seen) == 1
    codes = model.encode(x.float() / 8 - 1).double()
    torch.testing.assert_close(model.code_mean, codes.mean(0))


def test_samples_are_decoded_from_the_codes_law() -> None:
    """The decoder replaced by one that shows its code: mean and covariance of 20,000 draws, to 5 standard errors."""
    model = ae((1, 1, 3), widths=(8,)).eval()
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 0.1]]).double()
    model.code_mean.copy_(torch.tensor([1.0, -1.0, 0.0]))
    model.code_cov.copy_(mix @ mix.T)
    model.decode = lambda z: z.reshape(-1, 1, 1, 3)  # type: ignore[method-assign]
    (frame,) = model.frames(range(20_000), 0, SampleSettings())
    z = frame.x.flatten(1).double()
    spread = model.code_cov.diagonal().sqrt()
    assert bool(((z.mean(0) - model.code_mean).abs() <= 5 * spread / 20_000**0.5).all())
    torch.testing.assert_close(torch.cov(z.T), model.code_cov, rtol=0, atol=5 * 4 * (2 / 20_000) ** 0.5)


def test_an_image_is_the_same_in_any_company() -> None:
    model = ae().eval()
    assert torch.equal(model.sample(6, seed=3)[4:5], model.sample(1, seed=3, start=4))


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1, 9)])
def test_any_size(shape: tuple[int, int, int]) -> None:
    model = ae(shape, widths=(8, 8, 8)).eval()
    assert model.sample(2).shape == (2, *shape)
    assert bool(model.loss(images(3, shape), draws(3)).isfinite().all())


def test_there_are_no_steps_to_choose() -> None:
    with pytest.raises(InputError, match="steps"):
        ae().sample(1, settings=SampleSettings(steps=2))
