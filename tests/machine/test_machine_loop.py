"""The training loop: the order of the data, the step, the average, the learning rate."""

from __future__ import annotations

import copy
import errno
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from machine_helpers import Toy
from torch import Tensor

from nelbo.models.recipe import ParamGroup, Recipe
from nelbo.models.vae import VAE, VAEOptions
from nelbo.options import TrainingOptions
from nelbo.rng import Draws
from nelbo.training import Trainer, latest_checkpoint, read_checkpoint, stopping
from nelbo.training.ema import EMA
from nelbo.training.folders import step_of


def numbered(n: int) -> Tensor:
    """n different images, (n, 1, 1, 3): image i has i everywhere."""
    return torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).repeat(1, 1, 1, 3)


def trainer_of(folder: Path, model: Toy | None = None, n: int = 10, **options: object) -> Trainer:
    recipe = {"steps": 20, "batch_size": 4, "precision": "fp32", "warmup": 0, "decay": 0.0} | options
    return Trainer(model or Toy(), numbered(n), TrainingOptions.model_validate(recipe), folder)


def seen(trainer: Trainer) -> list[int]:
    assert isinstance(trainer.model, Toy)
    return torch.cat(trainer.model.seen)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (12, 4), (7, 3), (3, 8), (5, 5), (1, 2)])
def test_each_epoch_sees_every_image_once(tmp_path: Path, n: int, batch: int) -> None:
    trainer = trainer_of(tmp_path, n=n, batch_size=batch, steps=30)
    for _ in range(30):
        trainer.advance()
    order = seen(trainer)
    epochs = [order[k : k + n] for k in range(0, len(order) - n + 1, n)]
    assert len(epochs) >= 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    if n > 2:
        assert len({tuple(epoch) for epoch in epochs}) > 1, "every epoch has the same order"


def test_the_order_follows_the_seed(tmp_path: Path) -> None:
    orders = {}
    for seed in (0, 0, 1):
        trainer = trainer_of(tmp_path, seed=seed)
        for _ in range(10):
            trainer.advance()
        orders.setdefault(seed, []).append(seen(trainer))
    assert orders[0][0] == orders[0][1]
    assert orders[0][0] != orders[1][0]


def test_the_batch_of_a_step_needs_no_history(tmp_path: Path) -> None:
    walked, jumped = trainer_of(tmp_path), trainer_of(tmp_path)
    for _ in range(7):
        walked.advance()
    jumped.step = 7
    assert torch.equal(walked.batch(), jumped.batch())


def test_images_are_not_copied_or_changed(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    before = trainer.batches.images.clone()
    for _ in range(5):
        trainer.advance()
    assert torch.equal(trainer.batches.images, before)


def test_the_average_is_the_documented_one() -> None:
    model = Toy()
    ema = EMA(model, 0.9)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    random = torch.Generator().manual_seed(0)
    decays = []
    for step in range(1, 121):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=random))
        ema.update(model, step)
        d = min(0.9, (1 + step) / (10 + step))
        decays.append(d)
        expected = {n: d * expected[n] + (1 - d) * p.detach().double() for n, p in model.named_parameters()}
    assert decays[0] == pytest.approx(2 / 11)
    assert decays[-1] == 0.9
    for name, p in ema.model.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not p.requires_grad


def test_the_trainer_keeps_the_average_of_its_weights(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lr=0.05)
    average = trainer.model.matrix.detach().double().clone()
    for step in range(1, 16):
        trainer.advance()
        d = min(0.999, (1 + step) / (10 + step))
        average = d * average + (1 - d) * trainer.model.matrix.detach().double()
    torch.testing.assert_close(trainer.ema.model.matrix.double(), average, rtol=1e-5, atol=1e-6)


def test_learning_rate_by_steps(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=100, warmup=9, decay=0.4, lr=0.5)
    rates = []
    for _ in range(100):
        rates.append(trainer.advance()[1])
        assert {group["lr"] for each in trainer.optimizers for group in each.param_groups} == {rates[-1]}
    assert rates[:10] == pytest.approx([0.05 * k for k in range(1, 11)])
    assert rates[10:61] == pytest.approx([0.5] * 51)
    assert rates[61:] == pytest.approx([0.5 * (100 - k) / 40 for k in range(61, 100)])
    assert rates[-1] == pytest.approx(0.5 / 40)
    assert min(rates) > 0


def test_learning_rate_by_minutes(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=None, minutes=2, decay=0.5, lr=1.0)
    for seconds, rate in ((0.0, 1.0), (59.9, 1.0), (60.0, 1.0), (90.0, 0.5), (114.0, 0.1), (130.0, 0.0)):
        trainer.seconds = seconds
        assert trainer.learning_rate() == pytest.approx(rate, abs=1e-12)


def test_no_decay_keeps_the_rate(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, decay=0.0, lr=0.25)
    assert [trainer.advance()[1] for _ in range(20)] == [0.25] * 20


@pytest.mark.parametrize("clip", [0.01, 1.0])
def test_gradients_are_clipped_together(tmp_path: Path, clip: float) -> None:
    trainer = trainer_of(tmp_path, Toy(scale=1e4), clip=clip)
    trainer.advance()
    # After one step AdamW's first moment is (1 − 0.9) times the gradient that it was handed.
    norm = math.sqrt(sum(float(entry["exp_avg"].square().sum()) for entry in trainer.optimizers[0].state.values()))
    assert norm == pytest.approx(0.1 * clip, rel=1e-4)


def test_short_gradients_are_left_alone(tmp_path: Path) -> None:
    moments = []
    for clip in (1e3, 1e6):
        trainer = trainer_of(tmp_path, clip=clip)
        trainer.advance()
        moments.append(trainer.optimizers[0].state[trainer.model.matrix]["exp_avg"].clone())
    assert torch.equal(*moments)


def test_steps_are_those_of_adamw(tmp_path: Path) -> None:
    """AdamW by hand (Loshchilov & Hutter 2019, Algorithm 2) in float64, with decay on the matrix alone."""
    options = {"lr": 0.01, "weight_decay": 0.5, "clip": 1e9, "batch_size": 4}
    trainer = trainer_of(tmp_path, **options)
    twin = copy.deepcopy(trainer.model).double()
    first = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    second = copy.deepcopy(first)
    for step in range(1, 6):
        x = trainer.batch()
        loss = (x.flatten(1).double() / 255 @ twin.matrix + twin.vector).square().mean(1).mean()
        gradients = dict(
            zip([n for n, _ in twin.named_parameters()], torch.autograd.grad(loss, twin.parameters()), strict=True)
        )
        mean, _ = trainer.advance()
        assert float(mean) == pytest.approx(loss.item(), rel=1e-5)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                first[name] = 0.9 * first[name] + 0.1 * gradients[name]
                second[name] = 0.99 * second[name] + 0.01 * gradients[name].square()
                if name == "matrix":
                    p.mul_(1 - 0.01 * 0.5)
                p.sub_(0.01 * (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.99**step)).sqrt() + 1e-8))
        for name, p in trainer.model.named_parameters():
            torch.testing.assert_close(p.double(), dict(twin.named_parameters())[name], rtol=1e-5, atol=1e-6)


def test_weight_decay_is_for_matrices_alone(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Toy(scale=0.0), weight_decay=0.5, lr=0.1)
    matrix, vector = trainer.model.matrix.detach().clone(), trainer.model.vector.detach().clone()
    trainer.advance()
    torch.testing.assert_close(trainer.model.matrix.detach(), matrix * (1 - 0.1 * 0.5))
    assert torch.equal(trainer.model.vector.detach(), vector)


def test_what_a_step_says(tmp_path: Path) -> None:
    steps = list(trainer_of(tmp_path, steps=12))
    assert [s.step for s in steps] == list(range(1, 13))
    assert [s.images for s in steps] == [4 * k for k in range(1, 13)]
    assert [s.progress for s in steps] == pytest.approx([k / 12 for k in range(1, 13)])
    assert [s.step for s in steps if s.milestone] == [2, 4, 6, 8, 10, 12]
    assert all(later.seconds >= earlier.seconds for earlier, later in pairwise(steps))


def test_training_by_the_clock_ends(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, steps=None, minutes=0.3 / 60)
    last = list(trainer)[-1]
    assert last.progress == 1.0
    assert 0.3 <= last.seconds < 3.0
    assert (tmp_path / "checkpoints" / f"step-{last.step:08d}").is_dir()


def test_the_users_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trainer_of(tmp_path).advance()
    assert torch.equal(torch.rand(4), expected), "a training step seeds torch's global generator and leaves it so"


@pytest.mark.parametrize("steps", [7, 60])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, steps: int) -> None:
    """Whatever the length: a run of NaN must not end as if it were done, and no checkpoint may hold NaN."""
    trainer = trainer_of(tmp_path, Toy(scale=float("nan")), steps=steps)
    with pytest.raises(FloatingPointError, match="`lr`"):
        list(trainer)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_binarised_training_images_are_drawn_anew(tmp_path: Path) -> None:
    """The same step draws the same, another step anew: half of its pixels agree, within 4 standard errors."""
    recipe = TrainingOptions(steps=4, batch_size=8)
    trainer = Trainer(Toy(), torch.full((8, 1, 8, 8), 8, dtype=torch.uint8), recipe, tmp_path, grey_levels=17)
    first = trainer.batch()
    assert torch.equal(first, trainer.batch())
    assert set(first.unique().tolist()) == {0, 1}
    trainer.step = 1
    share = float((first == trainer.batch()).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / 512**0.5


def test_parts_have_settings_of_their_own(tmp_path: Path) -> None:
    """A part at half the learning rate moves half as far on its first step, where Adam's step has the size of lr."""

    class Halves(Toy):
        @property
        def recipe(self) -> Recipe:
            return TwoGroups(self)

    class TwoGroups(Recipe):
        @property
        def groups(self) -> list[ParamGroup]:
            first, *others = self.model.parameters()
            return [ParamGroup([first], lr=0.5, betas=(0.0, 0.9)), ParamGroup(others)]

    def moved(model: Toy) -> list[float]:
        before = [p.detach().clone() for p in model.parameters()]
        trainer = trainer_of(tmp_path, model, weight_decay=0.0)
        trainer.advance()
        return [float((p.detach() - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)]

    whole, halves = moved(Toy()), moved(Halves())
    assert halves[0] == pytest.approx(0.5 * whole[0], rel=1e-4)
    assert halves[1:] == pytest.approx(whole[1:], rel=1e-4)


def fails_at(monkeypatch: pytest.MonkeyPatch, full: set[int]) -> None:
    """A checkpoint after every step, and a disk that is full at some."""
    honest = Trainer.save

    def save(trainer: Trainer) -> None:
        if trainer.step in full:
            raise OSError(errno.ENOSPC, "No space left on device", "the disk")
        honest(trainer)

    monkeypatch.setattr(stopping, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(Trainer, "save", save)


def test_a_checkpoint_that_cannot_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_at(monkeypatch, {3, 4})
    trainer = trainer_of(tmp_path, steps=8)
    troubles = {step.step: trainer.trouble for step in trainer}
    assert troubles == {k: "the disk: No space left on device" if k in (4, 5) else None for k in range(1, 9)}
    assert step_of(latest_checkpoint(tmp_path)) == 8  # type: ignore[arg-type]


def test_the_last_checkpoint_must_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_at(monkeypatch, {8})
    with pytest.raises(OSError, match="No space"):
        list(trainer_of(tmp_path, steps=8))
    assert step_of(latest_checkpoint(tmp_path)) == 7  # type: ignore[arg-type]


class Ill(Toy):
    """Its loss of the fourth image is NaN at some steps, so many times in all."""

    def __init__(self, at: int, times: int) -> None:
        super().__init__()
        self.at, self.times = at, times

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        losses = super().loss(x, draws)
        if draws.step + 1 != self.at or not self.times:
            return losses
        self.times -= 1
        return torch.where(torch.arange(len(x)) == 3, torch.nan, losses)


def test_a_run_falls_back_and_goes_on_more_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "CHECKPOINT_SECONDS", -1.0)
    trainer = trainer_of(tmp_path, Ill(at=6, times=2), steps=8, lr=0.1)
    row = trainer_of(tmp_path).batches.rows(5)[3]
    rates = {step.step: step.lr for step in trainer}
    assert rates == pytest.approx({k: 0.1 if k < 6 else 0.025 for k in range(1, 9)})
    said = f"the loss of training images {row} is not finite at step 6; back to step 5, with the learning rate times "
    assert trainer.news == [f"{said}0.5", f"{said}0.25"]
    # The same as a run that was always this slow from there on: nothing of the bad steps is left.
    twin = trainer_of(tmp_path / "twin", steps=8, lr=0.1)
    for k in range(8):
        twin.rollbacks = 2 * (k >= 5)
        twin.advance()
    assert torch.equal(trainer.model.matrix, twin.model.matrix)
    assert torch.equal(trainer.ema.model.matrix, twin.ema.model.matrix)
    again = trainer_of(tmp_path, steps=9, lr=0.1)
    again.restore(read_checkpoint(tmp_path / "checkpoints" / "step-00000008"), tmp_path)
    assert again.advance()[1] == pytest.approx(0.025), "and a resumed run remembers"


def test_a_run_falls_back_only_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "CHECKPOINT_SECONDS", -1.0)
    trainer = trainer_of(tmp_path, Ill(at=6, times=100), steps=8)
    with pytest.raises(FloatingPointError, match=r"at step 6, after 5 returns to a checkpoint; try a lower `lr`"):
        list(trainer)
    assert step_of(latest_checkpoint(tmp_path)) == 5  # type: ignore[arg-type]


def test_the_term_that_is_not_finite_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (1, 4, 4)
    model = VAE.from_options(VAEOptions(widths=(8, 8), latent=2).resolved(shape), shape, 256)
    with torch.no_grad():
        list(model.encoder.parameters())[-1][-1] = torch.nan  # ln σ of a latent
    images = torch.zeros(6, *shape, dtype=torch.uint8)
    trainer = Trainer(model, images, TrainingOptions(steps=1, batch_size=2, precision="fp32"), tmp_path)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=r"training images \d, \d is not finite \((reconstruction, )?kl\)"):
        trainer.advance()
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=0, atol=0, equal_nan=True)
