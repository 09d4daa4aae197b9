"""The GAN: each player's gradient, penalties by finite differences, and the discriminator's bound by sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gaussians
from scipy import stats
from torch import Tensor, nn

from nelbo.errors import InputError
from nelbo.models._collapse import class_ratio, collapse_line
from nelbo.models._games import GAMES
from nelbo.models.gan import GAN, PENALTY_EVERY, GANOptions
from nelbo.models.sampling import SampleSettings
from nelbo.nn.critic import Critic
from nelbo.options import TrainingOptions
from nelbo.rng import Draws, Stream
from nelbo.theory.adversarial import discriminator_value
from nelbo.theory.discrete import js_discrete, total_variation_discrete
from nelbo.training.optimizers import optimizers_of

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def gan(loss: str = "non-saturating", **settings: object) -> GAN:
    """A small game with every weight random, in float64, where a gradient is exact to round-off."""
    torch.manual_seed(0)
    given = {"loss": loss, "latent": 3, "widths": (8, 8), "clusters": 0} | settings
    model = GAN.from_options(GANOptions.model_validate(given).resolved(SHAPE), SHAPE, 5)
    model.recipe.prepare(images(100), 5, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def images(n: int = 6) -> Tensor:
    return torch.randint(0, 5, (n, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def by_hand(loss: str, real: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's and the generator's loss, from D = 1/(1 + e^{−ℓ}) where there is a D."""
    d_real, d_drawn = 1 / (1 + torch.exp(-real)), 1 / (1 + torch.exp(-drawn))
    entropy = -d_real.log() - (1 - d_drawn).log()
    return {
        "minimax": (entropy, (1 - d_drawn).log()),
        "non-saturating": (entropy, -d_drawn.log()),
        "hinge": ((1 - real).clamp(min=0) + (1 + drawn).clamp(min=0), -drawn),
        "wgan-gp": (drawn - real, -drawn),
    }[loss]


@pytest.mark.parametrize("clusters", [0, 3])
@pytest.mark.parametrize("loss", list(GAMES))
def test_each_player_has_the_gradient_of_its_own_loss(loss: str, clusters: int) -> None:
    """Two separate graphs and hand-written losses give what one backward pass gives; to float32."""
    model = gan(loss, r1=0.0, gp=0.0, clusters=clusters)
    x, draws = images(), Draws(0, 1, range(6), 6, CPU)
    model.loss(x, draws).mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    z = draws.normal(Stream.TRAIN_NOISE, (3,))
    x_0 = x.float() / 2 - 1
    c = None
    if model.clusters is not None:
        c = torch.cdist(x_0.flatten(1), model.clusters.centres).argmin(1)
        assert len(c.unique()) > 1
    mine = torch.autograd.grad(
        by_hand(loss, model.critic(x_0, c), model.critic(model.draw(z, c), c))[1].mean(),
        list(model.generator.parameters()),
    )
    theirs = torch.autograd.grad(
        by_hand(loss, model.critic(x_0, c), model.critic(model.draw(z, c).detach(), c))[0].mean(),
        list(model.critic.parameters()),
    )
    names = [name for name, _ in model.named_parameters()]
    for name, gradient in zip(names, (*mine, *theirs), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-7)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("clusters", [0, 3])
@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
def test_the_penalty_is_the_slope(loss: str, clusters: int) -> None:
    """‖∇ℓ‖² by central differences in float64 (h = 1e-5: error near h²), at the images or between them and samples."""
    model = gan(loss, r1=0.7, gp=3.0, clusters=clusters).double()
    x_0 = gaussians(6, *SHAPE).tanh()
    drawn = gaussians(6, *SHAPE, seed=2).tanh()
    draws = Draws(0, 0, range(6), 6, CPU)
    c = torch.tensor([0, 1, 2, 0, 1, 2]) if clusters else None
    found = model._penalty(x_0, drawn, c, draws)
    at = x_0
    if loss == "wgan-gp":
        u = draws.uniform(Stream.TRAIN_PLACE).reshape(-1, 1, 1, 1)
        at = u * x_0 + (1 - u) * drawn
    layers = model.critic

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            h = x
            for layer in layers.layers:
                h = layer(h)
                h = h if isinstance(layer, nn.Flatten) else nn.functional.leaky_relu(h, 0.2)
            return layers.last(h)[:, 0] + (0 if c is None else (layers.each.weight[c] * h).sum(1))

    squared = torch.zeros(6, dtype=torch.float64)
    for i in range(16):
        step = torch.zeros(16, dtype=torch.float64)
        step[i] = 1e-5
        step = step.reshape(1, *SHAPE)
        squared += ((score(at + step) - score(at - step)) / 2e-5).square()
    expected = 3.0 * (squared.sqrt() - 1).square() if loss == "wgan-gp" else 0.35 * squared
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def test_a_lazy_penalty_counts_for_the_steps_between() -> None:
    """Averaged over a cycle of steps, the loss has the penalty once."""
    with_it, without = gan(r1=0.9), gan(r1=0.0)
    x = images()
    extra = []
    for step in range(PENALTY_EVERY):
        draws = Draws(0, step, range(6), 6, CPU)
        extra.append((with_it.loss(x, draws) - without.loss(x, draws)).detach())
    mean = torch.stack(extra).mean(0)
    expected = with_it._penalty(x.float() / 2 - 1, x.float(), None, Draws(0, 0, range(6), 6, CPU))
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-4, atol=1e-5)
    assert float(expected.detach().min()) > 0


@torch.no_grad()
def test_spectral_norm_makes_every_layer_shrink() -> None:
    """After a hundred power iterations each weight matrix has a largest singular value of 1, to 1%."""
    torch.manual_seed(0)
    critic = Critic(SHAPE, (8, 8), fine=True, spectral=True, clusters=4).train()
    for _ in range(100):
        critic(torch.randn(2, *SHAPE), torch.tensor([0, 1]))
    critic.eval()
    for layer in (*critic.layers, critic.last, critic.each):
        if not isinstance(layer, nn.Flatten):
            assert float(torch.linalg.svdvals(layer.weight.flatten(1))[0]) == pytest.approx(1.0, rel=0.01)


# What a discriminator proves


class OnePixel(nn.Module):
    """The ratio that a table says, for images of one value each: ℓ = table[level]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor, _: None = None) -> Tensor:
        return self.table[((x[:, 0, 0, 0] + 1) * 2).round().long()]


class Quantiles(nn.Module):
    """Draws levels with probabilities q from the first component of z, by the normal law's quantiles."""

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.edges = q.cumsum(0)[:-1]
        self.anything = nn.Parameter(torch.zeros(1))  # a model is where its weights are

    def forward(self, z: Tensor) -> Tensor:
        u = torch.special.ndtr(z[:, 0].double())
        level = torch.bucketize(u, self.edges)
        x = (level / 2 - 1).clamp(-0.999999, 0.999999)
        return torch.atanh(x).reshape(-1, 1, 1, 1).expand(-1, *SHAPE)


class Always(nn.Module):
    """The same image, whatever z."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(4.0 * value))

    def forward(self, z: Tensor) -> Tensor:
        return self.value.expand(len(z), *SHAPE)


P = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)
Q = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)
N = 40_000


def known_game(loss: str, table: Tensor) -> tuple[GAN, Tensor]:
    """Images with levels by P, samples by Q, and a discriminator that is a table."""
    model = gan(loss)
    model.generator, model.critic = Quantiles(Q), OnePixel(table)
    level = torch.bucketize((torch.arange(N) + 0.5) / N, P.cumsum(0)[:-1]).to(torch.uint8)
    return model, level.reshape(-1, 1, 1, 1).expand(-1, *SHAPE)


@torch.no_grad()
@pytest.mark.parametrize("optimal", [True, False])
def test_cross_entropy_proves_a_part_of_jensen_shannon(optimal: bool) -> None:
    """½ V + ln 2 by sums over the five levels, within 4 standard errors; at D* it is JS itself, elsewhere less."""
    table = (P / Q).log() if optimal else 0.3 * (P / Q).log() + 0.2
    model, x = known_game("non-saturating", table)
    found = model.inspector.measures(x)
    proven = 0.5 * float(discriminator_value(table, table, P, Q)) + math.log(2)
    assert_mean(found["jensen_shannon_at_least"], proven, sigmas=4)
    assert_mean(found["D_of_images"], float((P * table.sigmoid()).sum()), sigmas=4, bias=1e-4)
    assert_mean(found["D_of_samples"], float((Q * table.sigmoid()).sum()), sigmas=4)
    js = float(js_discrete(P, Q))
    assert proven == pytest.approx(js, abs=1e-12) if optimal else proven < js - 1e-3


@torch.no_grad()
def test_hinge_proves_a_part_of_total_variation() -> None:
    for table, share in ((torch.sign(P - Q), 1.0), (0.5 * torch.sign(P - Q), 0.5)):
        model, x = known_game("hinge", table)
        proven = share * float(total_variation_discrete(P, Q))
        assert_mean(model.inspector.measures(x)["total_variation_at_least"], proven, sigmas=4)


@torch.no_grad()
def test_what_is_proven_is_of_the_image_and_its_own_cluster() -> None:
    """Samples of the second cluster that look like the first are judged as the first: ℓ is a function of x alone."""
    few = known_game("non-saturating", torch.zeros(5, dtype=torch.float64))[1][:: N // 300]
    told: list[Tensor] = []

    class Listening(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            told.append(c)
            return torch.zeros(len(x))

    with_clusters = gan(clusters=2)
    with_clusters.generator, with_clusters.critic = Always(-1.0), Listening()
    assert with_clusters.clusters is not None
    with_clusters.clusters.centres.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
    with_clusters.clusters.shares.copy_(torch.tensor([0.5, 0.5]))
    with_clusters.inspector.measures(few, batch=len(few))
    of_images, of_samples = told
    assert of_samples.eq(0).all()
    assert of_images.equal((few[:, 0, 0, 0] > 2).long())


@torch.no_grad()
def test_a_wasserstein_critic_has_a_gap_and_no_bound() -> None:
    table = torch.tensor([2.0, -1.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    model, x = known_game("wgan-gp", table)
    found = model.inspector.measures(x)
    assert set(found) == {"critic_of_images", "critic_of_samples", "critic_gap"}
    assert_mean(found["critic_gap"], float(((P - Q) * table).sum()), sigmas=4)


# What goes wrong is said


@torch.no_grad()
def test_collapse_and_a_beaten_generator_are_said() -> None:
    model, x = known_game("non-saturating", torch.zeros(5, dtype=torch.float64))
    few = x[:: N // 500]
    assert model.inspector.warnings(model.inspector.diagnostics(few)) == []
    model.generator = Quantiles(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    (line,) = model.inspector.warnings(model.inspector.diagnostics(few))
    assert "mode collapse" in line
    model, x = known_game("non-saturating", torch.zeros(5, dtype=torch.float64))
    few = torch.full_like(x[:500], 4)
    few[::2] = 3
    model.generator = Quantiles(torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64))
    model.critic = OnePixel(torch.tensor([-5.0, -5.0, 0.0, 5.0, 5.0], dtype=torch.float64))
    found = model.inspector.diagnostics(few)
    assert found["discriminator_right"] == 1.0
    assert found["variance_of_samples_over_images"] == pytest.approx(1.0, rel=0.02)
    (line,) = model.inspector.warnings(found)
    assert "has won" in line


class Nearly(nn.Module):
    """Almost the same image, whatever z; one sample in five is far from all others."""

    def __init__(self, outliers: bool) -> None:
        super().__init__()
        self.outliers = outliers
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        x = 0.01 * z[:, :1]
        if self.outliers:
            x = torch.where(z[:, :1] > 0.8, 3.0 * torch.sign(z[:, 1:2]), x)
        return x.reshape(-1, 1, 1, 1).expand(-1, *SHAPE)


@torch.no_grad()
@pytest.mark.parametrize("outliers", [False, True])
def test_samples_that_are_all_but_equal_have_collapsed_and_that_is_all_that_is_said(outliers: bool) -> None:
    """36 of them, whatever a few others are; that D then tells them from images is no second fault."""
    model, x = known_game("non-saturating", torch.tensor([9.0, 9.0, -9.0, 9.0, 9.0], dtype=torch.float64))
    count = 400 if outliers else 36
    few = x[:: N // count][:count]
    few = few[few[:, 0, 0, 0] != 2]  # D is right about all of them
    model.generator = Nearly(outliers)
    model.critic = OnePixel(torch.tensor([9.0, 9.0, -9.0, 9.0, 9.0], dtype=torch.float64))
    found = model.inspector.diagnostics(few)
    assert outliers or found["discriminator_right"] == 1.0
    (line,) = model.inspector.warnings(found)
    assert line.startswith("mode collapse: ")
    assert (found["variance_of_samples_over_images"] < 0.25) is not outliers  # type: ignore[operator]
    assert found["distance_of_samples_over_images"] < 0.05  # type: ignore[operator]


def test_how_many_classes_there_are() -> None:
    """exp(H) − 1 of shares ½, ½ is 1, of ten equal ones 9, of one class 0."""
    ten, two, one = torch.arange(100) % 10, torch.arange(100) % 2, torch.zeros(100, dtype=torch.int64)
    assert class_ratio(two, ten) == pytest.approx(1 / 9)
    assert class_ratio(one, ten) == pytest.approx(0.0, abs=1e-12)
    assert class_ratio(ten, ten) == pytest.approx(1.0)
    assert class_ratio(ten, one) is None
    assert collapse_line({"classes_of_samples_over_images": 1 / 9}) is not None
    assert collapse_line({"classes_of_samples_over_images": 0.5, "variance_of_samples_over_images": None}) is None


def test_players_are_optimised_apart() -> None:
    model = gan(critic_lr=2.0)
    generator, critic = model.recipe.groups
    assert {id(p) for p in generator.parameters} == {id(p) for p in model.generator.parameters()}
    assert {id(p) for p in critic.parameters} == {id(p) for p in model.critic.parameters()}
    assert (generator.lr, critic.lr) == (1.0, 2.0)
    options = TrainingOptions(steps=1, optimizer="muon")
    assert [type(each) for each in optimizers_of(model.recipe.groups, options, CPU)] == [torch.optim.AdamW]


class Ratio(nn.Module):
    """ln p(x|c)/p_G(x|c) of p = N(c + 0.5, 0.7²) and p_G = N(c, 1)."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = x.flatten() - c
        return -0.5 * ((x - 0.5) / 0.7) ** 2 - math.log(0.7) + 0.5 * x**2


@torch.no_grad()
def test_a_chain_that_a_right_discriminator_judges_draws_from_the_data() -> None:
    """p/p_G ≤ 1.83, so each step leaves at most 1 − 1/1.83 of the distance: nothing after 25. Law by KS.

    Of two clusters, 0 and 1, with shares 0.3 and 0.7: the law of the images is the mixture of theirs.
    """
    model = gan(clusters=2).eval()
    assert model.clusters is not None
    model.clusters.shares.copy_(torch.tensor([0.3, 0.7]))
    model.draw = lambda z, c: (z[:, 0] + c)[:, None, None, None]  # type: ignore[assignment]
    model.critic = Ratio()  # type: ignore[assignment]
    ends = {}
    for steps in (1, 25):
        *_, frame = model.frames(range(4000), 0, SampleSettings(steps=steps))
        ends[steps] = frame.x.double().flatten().numpy()
        assert (frame.done, frame.of) == (steps, steps)

    def target(x: np.ndarray) -> np.ndarray:
        return 0.3 * stats.norm(0.5, 0.7).cdf(x) + 0.7 * stats.norm(1.5, 0.7).cdf(x)

    assert stats.kstest(ends[25], target).pvalue > 0.0027
    assert stats.kstest(ends[1], target).pvalue < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("clusters", [0, 3])
def test_a_chain_is_the_images_own_and_needs_a_ratio(clusters: int) -> None:
    settings = SampleSettings(steps=4)
    model = gan(clusters=clusters).eval()
    *_, many = model.frames(range(5), 3, settings)
    *_, one = model.frames([4], 3, settings)
    torch.testing.assert_close(many.x[4:], one.x)
    assert "4 G(z" in model.inspector.describe_sampling(settings)
    assert ("clusters" in model.inspector.describe_sampling(SampleSettings())) == bool(clusters)
    for loss in ("hinge", "wgan-gp"):
        with pytest.raises(InputError, match="steps"):
            gan(loss).inspector.describe_sampling(settings)


@torch.no_grad()
def test_samples_are_inside_the_levels_and_their_own() -> None:
    model = gan().eval()
    settings = SampleSettings()
    *_, many = model.frames(range(5), 3, settings)
    *_, one = model.frames([4], 3, settings)
    torch.testing.assert_close(many.x[4:], one.x)
    assert float(many.x.abs().max()) <= 1.0
    assert float(many.x.std(0).max()) > 0
    with pytest.raises(InputError, match="sampler"):
        model.inspector.describe_sampling(SampleSettings(sampler="ddim"))
