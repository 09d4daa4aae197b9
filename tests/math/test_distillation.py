"""Consistency distillation, against its teacher's trajectory, which is known exactly on Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from math_helpers import gammas_of, gaussians, random_cov
from torch import Tensor

from nelbo.diffusion.denoiser import Denoised, Denoiser, denoiser_of, from_x_0
from nelbo.diffusion.known import Known
from nelbo.diffusion.process import CLEAN, diffuse
from nelbo.diffusion.samplers import DDIM, trajectory
from nelbo.diffusion.spacing import cosine_steps
from nelbo.errors import InputError
from nelbo.models._diffusion_clusters import given
from nelbo.models._distilled import DistillationOptions, Distilled, consistency_target
from nelbo.models._sampling import walk
from nelbo.models.ddpm import DDPM, DDPMOptions
from nelbo.models.sampling import SampleSettings
from nelbo.models.vdm import VDM, VDMOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.exact import GaussianData

D, N, K = 3, 12, 3
GAMMAS = cosine_steps(gammas_of("sigmoid", 400), N)
DATA = GaussianData(torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64), random_cov(D, seed=3))
TEACHER = denoiser_of(DATA.denoise)
SHAPE = (1, 8, 8)
LABELS = torch.tensor([1, 2, 3, 1, 2, 3, 0, 1])


def alpha_bar(gamma: Tensor) -> float:
    """ᾱ, one where there is no noise."""
    return 1 / (1 + math.exp(float(gamma)))


def walked(z: Tensor, first: int, last: int) -> Tensor:
    """Where the teacher's own steps lead from z, from one place of the walk to another."""
    *_, state = trajectory(DDIM(), TEACHER, z, GAMMAS[first : last + 1], torch.zeros_like)
    return state.z


def at_once(z_t: Tensor, gamma_t: Tensor, z_r: Tensor, gamma_r: Tensor) -> Tensor:
    """The x̂_0 with which one step of DDIM (12), η = 0, leads from z_t to z_r: solved for, not summed up."""
    a_t, a_r = alpha_bar(gamma_t), alpha_bar(gamma_r)
    shrink = math.sqrt((1 - a_r) / (1 - a_t))
    return (z_r - shrink * z_t) / (math.sqrt(a_r) - shrink * math.sqrt(a_t))


def perfect_student(last: int) -> Denoiser:
    """It says what leads to this place, from wherever on the walk it is asked."""

    def student(z: Tensor, gamma: Tensor) -> Denoised:
        now = int((gamma[0] == GAMMAS).nonzero())
        if now >= last:  # the segment's end: not to be asked
            return Denoised(torch.full_like(z, torch.nan), z)
        return Denoised(at_once(z, GAMMAS[now], walked(z, now, last), GAMMAS[last]), z)

    return student


@pytest.mark.parametrize("place", range(N))
def test_a_student_that_leads_where_the_walk_does_is_its_own_target(place: int) -> None:
    end = (place // (N // K) + 1) * (N // K)
    z = torch.randn(64, D, dtype=torch.float64, generator=torch.Generator().manual_seed(place))
    student = TEACHER if place + 1 == end else perfect_student(end)  # its weight is nothing, but 0 · nan is not
    found = consistency_target(TEACHER, student, z, *(GAMMAS[k].expand(64) for k in (place, place + 1, end)))
    # Coefficients are float64; what is solved for cancels a few digits where ᾱ_t is small.
    truth = at_once(z, GAMMAS[place], walked(z, place, end), GAMMAS[end])
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-9)


def test_what_a_wrong_student_says_counts_by_its_share() -> None:
    """One off by δ at s moves the target by (1 − w) δ, 1 − w = (ρ_r − ρ_s)/(ρ_r − ρ_t), ρ² = SNR."""
    z, delta, student = torch.randn(5, D, dtype=torch.float64), 0.3, perfect_student(4)
    gammas = [GAMMAS[k].expand(5) for k in (1, 2, 4)]

    def off(x: Tensor, gamma: Tensor) -> Denoised:
        told = student(x, gamma)
        return told._replace(x_0=told.x_0 + delta)

    moved = consistency_target(TEACHER, off, z, *gammas) - consistency_target(TEACHER, student, z, *gammas)
    rho = (-0.5 * GAMMAS).exp()
    wanted = delta * (rho[4] - rho[2]) / (rho[4] - rho[1])
    torch.testing.assert_close(moved, wanted.expand_as(moved), rtol=1e-9, atol=0)


def test_learned_from_its_own_targets_alone_a_linear_student_walks_as_the_teacher_does() -> None:
    """Least squares at each t of the walk, from the image upwards; then K steps against N, from the same noise."""
    x_0 = DATA.sample(gaussians(200, D, seed=0))
    maps: dict[float, Tensor] = {}

    def student(z: Tensor, gamma: Tensor) -> Denoised:
        x = torch.cat([z, torch.ones(len(z), 1, dtype=torch.float64)], 1) @ maps[float(gamma[0])]
        return from_x_0(x, z, gamma)

    size = N // K
    for place in reversed(range(N)):
        t, s, r = (GAMMAS[p].expand(200) for p in (place, place + 1, (place // size + 1) * size))
        z = diffuse(x_0, t, gaussians(200, D, seed=place + 1))
        target = consistency_target(TEACHER, student if float(s[0]) in maps else TEACHER, z, t, s, r)
        inputs = torch.cat([z, torch.ones(200, 1, dtype=torch.float64)], 1)
        maps[float(GAMMAS[place])] = torch.linalg.lstsq(inputs, target).solution
    start = gaussians(50, D, seed=99)
    *_, fast = trajectory(DDIM(), student, start, GAMMAS[::size], torch.zeros_like)
    # The targets are linear in z, so that least squares are exact up to round-off, which N fits add up.
    torch.testing.assert_close(fast.z, walked(start, 0, N), rtol=1e-6, atol=1e-7)


def test_cosine_steps_are_even_in_the_angle_of_cosine() -> None:
    gammas = gammas_of("sigmoid", 1000)
    grid = cosine_steps(gammas, 8)
    angle = torch.atan(torch.exp(grid[1:-1] / 2)) / (math.pi / 2)
    # The nearest of 1,000 steps is within half of one, here less than 0.002 of the angle.
    torch.testing.assert_close(angle, torch.arange(7, 0, -1, dtype=torch.float64) / 8, rtol=0, atol=0.002)
    assert (grid[0], grid[-1]) == (gammas[-1], CLEAN)
    assert bool((grid[1:] < grid[:-1]).all())
    assert set(grid.tolist()) <= set(gammas.tolist())


def test_more_steps_than_the_model_has_are_refused() -> None:
    with pytest.raises(InputError, match="teacher_steps"):
        cosine_steps(gammas_of("sigmoid", 10), 11)


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
@pytest.mark.parametrize(
    ("labels", "guidance"), [(None, 1.0), (LABELS, 1.0), (LABELS, 3.0)], ids=["unlabelled", "labelled", "guided"]
)
def test_the_loss_is_its_definition(labels: Tensor | None, guidance: float) -> None:
    """max(SNR_t, 1) ‖target − f(x_t)‖²/D, image by image, with each image's own t, s and r found by counting.

    The teacher's x̂_0 is x̂_0(∅) + g (x̂_0(y) − x̂_0(∅)). Teacher and student are different; float32 networks agree to
    1e-5 whatever the batch.
    """
    classes: dict[str, object] = (
        {} if labels is None else {"labels": True, "classes": ("a", "b", "c"), "label_dropout": 0.4}
    )
    options = DistillationOptions(steps=2, teacher_steps=8, guidance=guidance)
    distilled = awake(Distilled(model("vdm", **classes), options))
    for p in distilled.student.parameters():
        p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    x = torch.randint(0, 17, (8, *SHAPE), generator=torch.Generator().manual_seed(2))
    draws = Draws(3, 1, range(8), 8, torch.device("cpu"), labels)
    found = distilled.loss(x, draws)
    hidden = draws.uniform(Stream.LABEL_DROPOUT) < 0.4
    assert 0 < int(hidden.sum()) < 8
    u, eps = draws.spread(Stream.TRAIN_TIME), draws.normal(Stream.TRAIN_NOISE, SHAPE)
    grid = distilled.teacher_gammas
    for i in range(8):
        place = int(u[i] * 8)
        t, s, r = grid[place], grid[place + 1], grid[4] if place < 4 else grid[8]
        a_t, a_s, a_r = (alpha_bar(gamma) for gamma in (t, s, r))
        z_t = math.sqrt(a_t) * (2 * x[i : i + 1] / 16 - 1) + math.sqrt(1 - a_t) * eps[i]
        known = Known() if labels is None or hidden[i] else Known(label=labels[i : i + 1])
        teacher, student = (part.denoiser.given(known) for part in (distilled.teacher, distilled.student))
        told, other = teacher(z_t, t[None]).x_0, distilled.teacher.denoiser(z_t, t[None]).x_0
        told = (other + guidance * (told - other)).clamp(-1, 1)
        if s == r:
            target = told
        else:
            step = math.sqrt((1 - a_s) / (1 - a_t))
            z_s = step * z_t + (math.sqrt(a_s) - step * math.sqrt(a_t)) * told
            ahead = student(z_s, s[None]).x_0
            z_r = ahead
            if r > CLEAN:
                step = math.sqrt((1 - a_r) / (1 - a_s))
                z_r = step * z_s + (math.sqrt(a_r) - step * math.sqrt(a_s)) * ahead
            target = at_once(z_t, t, z_r, r)
        error = (target - student(z_t, t[None]).x_0).square().mean()
        weight = max(1.0, a_t / (1 - a_t))
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
    *_, last = walk(distilled.student, DDIM(), distilled.teacher_gammas[::2], range(2, 5), 7, True)
    assert torch.equal(frames[-1].x, last.x)


def test_a_student_of_labels_draws_the_class_that_is_asked_for() -> None:
    """As its network does of images of this class, from the same noise."""
    options = DistillationOptions(steps=2, teacher_steps=8, guidance=2.0)
    distilled = awake(Distilled(model("vdm", labels=True, classes=("a", "b")), options))
    student = given(distilled.student, Known(label=torch.full((4,), 2)))
    *_, last = walk(student, DDIM(), distilled.student_gammas, range(4), 0, True)
    *_, found = distilled.frames(range(4), 0, SampleSettings(label="b"))
    *_, other = distilled.frames(range(4), 0, SampleSettings(label="a"))
    assert torch.equal(found.x, last.x)
    assert not torch.equal(found.x, other.x)
    said = "distilled, 2 steps, x̂_0 clipped to [−1, 1], given label b, guidance 2"
    assert distilled.inspector.describe_sampling(SampleSettings(label="b")) == said


def test_guidance_beyond_all_use_is_refused() -> None:
    with pytest.raises(InputError, match="must be from 0 to 1,000,000"):
        Distilled(model("vdm"), DistillationOptions(guidance=1e7))


def test_guidance_by_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="guidance"):
        Distilled(model("vdm", clusters=0), DistillationOptions(guidance=2.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (SampleSettings(steps=3), "steps"),
        (SampleSettings(guidance=1.5), "guidance"),
        (SampleSettings(sampler="ddim"), "sampler"),
        (SampleSettings(eta=0.5), "eta"),
        (SampleSettings(temperature=0.5), "temperature"),
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
