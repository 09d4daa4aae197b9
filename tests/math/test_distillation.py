"""Consistency distillation against the walk that it imitates, whose every step is known on Gaussian data."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from math_helpers import gaussians, random_cov, schedule_of
from torch import Tensor

from nelbo.diffusion import Denoised, Denoiser, Process, along
from nelbo.diffusion.samplers import DDIM, cosine_times, trajectory
from nelbo.errors import InputError
from nelbo.models._distilled import DistillationOptions, Distilled, consistency_target
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.sampling import SampleSettings
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import GaussianData

D, N, K = 3, 12, 3
PROCESS = Process(schedule_of("sigmoid", 400))
GRID = cosine_times(PROCESS.schedule.gamma[1:], N)
TEACHER = GaussianData(torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64), random_cov(D, seed=3)).denoiser(PROCESS)
SHAPE = (1, 8, 8)


def walked(x_t: Tensor, t: int, r: int) -> Tensor:
    """Where the teacher's own steps lead from x_t at t to r."""
    steps = [step for step in GRID if r <= step <= t]
    *_, last = trajectory(DDIM(PROCESS, 0.0), TEACHER, x_t, steps, torch.zeros_like)
    return last.x


def at_once(x_t: Tensor, t: int, x_r: Tensor, r: int) -> Tensor:
    """The x̂_0 with which one step of DDIM (12), η = 0, leads from x_t to x_r: solved for, not summed up."""
    return at_once_in(PROCESS.schedule.alpha_bar, x_t, t, x_r, r)


def at_once_in(alpha_bar: Tensor, x_t: Tensor, t: int, x_r: Tensor, r: int) -> Tensor:
    a_t, a_r = float(alpha_bar[t]), float(alpha_bar[r])
    shrink = math.sqrt((1 - a_r) / (1 - a_t))
    return (x_r - shrink * x_t) / (math.sqrt(a_r) - shrink * math.sqrt(a_t))


def perfect_student(r: int) -> Denoiser:
    """It says what leads to r, from wherever on the grid it is asked."""

    def student(x_t: Tensor, t: Tensor) -> Denoised:
        now = int(t[0])
        if now == max(r, 1):  # the segment's end: not to be asked
            return Denoised(torch.full_like(x_t, torch.nan), x_t)
        return Denoised(at_once(x_t, now, walked(x_t, now, r), r), x_t)

    return student


@pytest.mark.parametrize("place", range(N))
def test_a_student_that_leads_where_the_walk_does_is_its_own_target(place: int) -> None:
    size = N // K
    t, s, r = GRID[place], GRID[place + 1], GRID[(place // size + 1) * size]
    x_t = torch.randn(64, D, dtype=torch.float64, generator=torch.Generator().manual_seed(place))
    each = [torch.full((64,), when) for when in (t, s, r)]
    student = perfect_student(r)
    if s == r:  # its weight is nothing, but 0 · nan is not
        student = TEACHER
    found = consistency_target(PROCESS, TEACHER, student, x_t, *each)
    # Coefficients are float64; what is solved for cancels a few digits where ᾱ_t is small.
    torch.testing.assert_close(found, at_once(x_t, t, walked(x_t, t, r), r), rtol=1e-8, atol=1e-9)


def test_what_a_wrong_student_says_counts_by_its_share() -> None:
    """One off by δ at s moves the target by (1 − w) δ, 1 − w = (ρ_r − ρ_s)/(ρ_r − ρ_t), ρ² = SNR."""
    t, s, r = GRID[1], GRID[2], GRID[4]
    x_t, delta = torch.randn(5, D, dtype=torch.float64), 0.3
    each = [torch.full((5,), when) for when in (t, s, r)]
    student = perfect_student(r)

    def off(x: Tensor, when: Tensor) -> Denoised:
        told = student(x, when)
        return told._replace(x_0=told.x_0 + delta)

    moved = consistency_target(PROCESS, TEACHER, off, x_t, *each) - consistency_target(
        PROCESS, TEACHER, student, x_t, *each
    )
    rho = PROCESS.schedule.snr.sqrt()
    wanted = delta * (rho[r] - rho[s]) / (rho[r] - rho[t])
    torch.testing.assert_close(moved, wanted.expand_as(moved), rtol=1e-9, atol=0)


def test_learned_from_its_own_targets_alone_a_linear_student_walks_as_the_teacher_does() -> None:
    """Least squares at each t of the grid, from the image upwards; then K steps against N, from the same noise."""
    data = GaussianData(torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64), random_cov(D, seed=3))
    x_0 = data.sample(gaussians(200, D, seed=0))
    maps: dict[int, Tensor] = {}

    def student(x_t: Tensor, t: Tensor) -> Denoised:
        x = torch.cat([x_t, torch.ones(len(x_t), 1, dtype=torch.float64)], 1) @ maps[int(t[0])]
        signal, noise = along(PROCESS.schedule.signal_rate, t, x), along(PROCESS.schedule.noise_rate, t, x)
        return Denoised(x, (x_t - signal * x) / noise)

    size = N // K
    for place in reversed(range(N)):
        t, s, r = (torch.full((200,), GRID[p]) for p in (place, place + 1, (place // size + 1) * size))
        x_t = PROCESS.diffuse(x_0, t, gaussians(200, D, seed=place + 1))
        known = student if int(s[0]) in maps else TEACHER
        target = consistency_target(PROCESS, TEACHER, known, x_t, t, s, r)
        inputs = torch.cat([x_t, torch.ones(200, 1, dtype=torch.float64)], 1)
        maps[GRID[place]] = torch.linalg.lstsq(inputs, target).solution
    start = gaussians(50, D, seed=99)
    *_, fast = trajectory(DDIM(PROCESS, 0.0), student, start, GRID[::size], torch.zeros_like)
    # The targets are linear in x_t, so that least squares are exact up to round-off, which N fits add up.
    torch.testing.assert_close(fast.x, walked(start, GRID[0], 0), rtol=1e-6, atol=1e-7)


def test_cosine_times_are_even_in_the_angle_of_cosine() -> None:
    table = schedule_of("sigmoid", 1000)
    grid = cosine_times(table.gamma[1:], 8)
    angle = torch.atan(torch.exp(table.gamma[torch.tensor(grid[1:-1])] / 2)) / (math.pi / 2)
    # The nearest of 1,000 steps is within half of one, here less than 0.002 of the angle.
    torch.testing.assert_close(angle, torch.arange(7, 0, -1, dtype=torch.float64) / 8, rtol=0, atol=0.002)
    assert (grid[0], grid[-1]) == (1000, 0)
    assert all(a > b for a, b in pairwise(grid))


def test_more_steps_than_the_model_has_are_refused() -> None:
    with pytest.raises(InputError, match="--teacher-steps"):
        cosine_times(schedule_of("sigmoid", 10).gamma[1:], 11)


def model(kind: str, **more: object) -> VDM | DDPM:
    torch.manual_seed(0)
    if kind == "vdm":
        return VDM.from_options(VDMOptions(widths=(16,), blocks=1, attention=(), **more).resolved(SHAPE), SHAPE, 17)  # type: ignore[arg-type]
    return DDPM.from_options(DDPMOptions(widths=(16,), blocks=1, attention=(), **more).resolved(SHAPE), SHAPE, 17)  # type: ignore[arg-type]


def awake(distilled: Distilled) -> Distilled:
    """With a teacher that says something: fresh networks end in zeros."""
    with torch.no_grad():
        for p in distilled.teacher.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    distilled.begin()
    return distilled


@torch.no_grad()
def test_with_as_many_steps_as_the_teacher_there_is_nothing_to_learn() -> None:
    """Where every segment is one step of the teacher, a student that begins as its copy has a loss of zero."""
    x = torch.randint(0, 17, (16, *SHAPE), generator=torch.Generator().manual_seed(2))
    draws = Draws(0, 1, range(16), 16, torch.device("cpu"))
    many, few = (awake(Distilled(model("vdm"), DistillationOptions(steps=K, teacher_steps=8))) for K in (8, 1))
    torch.testing.assert_close(many.loss(x, draws), torch.zeros(16), rtol=0, atol=1e-8)
    assert float(few.loss(x, draws).mean()) > 1e-4


@torch.no_grad()
def test_the_loss_is_its_definition() -> None:
    """max(SNR_t, 1) ‖target − f(x_t)‖²/D, image by image, with each image's own t, s and r found by counting.

    Teacher and student are different; float32 networks agree to 1e-5 whatever the batch.
    """
    distilled = awake(Distilled(model("vdm"), DistillationOptions(steps=2, teacher_steps=8)))
    for p in distilled.student.parameters():
        p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    x = torch.randint(0, 17, (8, *SHAPE), generator=torch.Generator().manual_seed(2))
    draws = Draws(3, 1, range(8), 8, torch.device("cpu"))
    found = distilled.loss(x, draws)
    u, eps = draws.spread(Stream.TRAIN_TIME), draws.normal(Stream.TRAIN_NOISE, SHAPE)
    process = distilled.student.chain(None).process
    alpha_bar, grid = process.schedule.alpha_bar, distilled.grid
    for i in range(8):
        place = int(u[i] * 8)
        t, s, r = grid[place], grid[place + 1], grid[4] if place < 4 else grid[8]
        when = torch.tensor([t])
        x_t = alpha_bar[t].sqrt().float() * (2 * x[i : i + 1] / 16 - 1) + (1 - alpha_bar[t]).sqrt().float() * eps[i]
        told = distilled.teacher.chain(None).denoiser(x_t, when).x_0
        if s == r:
            target = told
        else:
            step = math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]))
            x_s = step * x_t + (alpha_bar[s].sqrt() - step * alpha_bar[t].sqrt()).float() * told
            ahead = distilled.student.chain(None).denoiser(x_s, torch.tensor([s])).x_0
            x_r = ahead
            if r:
                step = math.sqrt((1 - alpha_bar[r]) / (1 - alpha_bar[s]))
                x_r = step * x_s + (alpha_bar[r].sqrt() - step * alpha_bar[s].sqrt()).float() * ahead
            target = at_once_in(alpha_bar, x_t, t, x_r, r)
        error = (target - distilled.student.chain(None).denoiser(x_t, when).x_0).square().mean()
        weight = max(1.0, float(alpha_bar[t] / (1 - alpha_bar[t])))
        assert float(found[i]) == pytest.approx(weight * float(error), rel=1e-3, abs=1e-7)


def test_only_the_student_learns() -> None:
    distilled = awake(Distilled(model("vdm"), DistillationOptions(steps=2, teacher_steps=8)))
    x = torch.randint(0, 17, (4, *SHAPE), generator=torch.Generator().manual_seed(2))
    distilled.loss(x, Draws(0, 1, range(4), 4, torch.device("cpu"))).sum().backward()
    assert all(p.grad is None for p in distilled.teacher.parameters())
    trained = {id(p) for part in distilled.recipe.groups for p in part.parameters}
    assert trained == {id(p) for p in distilled.student.parameters()}
    assert any(p.grad is not None and bool(p.grad.any()) for p in distilled.student.parameters())


@pytest.mark.parametrize("kind", ["vdm", "ddpm"])
def test_it_walks_k_steps_of_ddim_from_the_seed_s_noise(kind: str) -> None:
    distilled = awake(Distilled(model(kind), DistillationOptions(steps=4, teacher_steps=8)))
    frames = list(distilled.frames(range(2, 5), 7, SampleSettings()))
    assert [frame.done for frame in frames] == [1, 2, 3, 4]
    assert distilled.inspector.sample_evaluations == 4
    chain = distilled.student.chain(None)
    way = chain._replace(grid=distilled.grid[::2])
    *_, last = distilled.student.walk(DDIM(chain.process, 0.0), way, range(2, 5), 7, True)
    assert torch.equal(frames[-1].x, last.x)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (SampleSettings(steps=3), "--steps"),
        (SampleSettings(sampler="ddim"), "--sampler"),
        (SampleSettings(eta=0.5), "--eta"),
        (SampleSettings(temperature=0.5), "--temperature"),
    ],
)
def test_settings_of_other_walks_are_refused(settings: SampleSettings, named: str) -> None:
    distilled = Distilled(model("vdm"), DistillationOptions(steps=4, teacher_steps=8))
    with pytest.raises(InputError, match=named):
        list(distilled.frames(range(1), 0, settings))


@pytest.mark.parametrize("predict", ["eps", "mean"])
def test_a_network_that_cannot_see_the_image_in_noise_is_refused(predict: str) -> None:
    with pytest.raises(InputError, match="cannot be distilled"):
        Distilled(model("ddpm", predict=predict), DistillationOptions())


def test_steps_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="not a multiple"):
        Distilled(model("vdm"), DistillationOptions(steps=3, teacher_steps=8))
