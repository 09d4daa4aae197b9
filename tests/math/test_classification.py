"""Labels by the bound of each label, against closed forms for Gaussian classes, and the law of their errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from test_labels import images, model_of
from torch import Tensor, nn

from nelbo.diffusion.process import rates
from nelbo.diffusion.variances import step_weight
from nelbo.metrics import classification, score_likelihood
from nelbo.metrics.calibration import calibration_error, confusions, reliability
from nelbo.metrics.classification import REJECT, UNDECIDED, WEIGHT, Classified, classify_images, race
from nelbo.metrics.label_costs import LabelCosts, cost_profile, edges_of
from nelbo.metrics.label_profile import CostProfile, Plan, profile_of
from nelbo.models._diffusion_forms import bound_of
from nelbo.models.diffusion import Diffusion
from nelbo.theory.likelihoods import to_unit

CPU = torch.device("cpu")
SHAPE, LEVELS, SPREAD = (1, 2, 2), 17, 0.25
MEANS = (-0.4, -0.15, 0.0, 0.35)
PRIOR = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)


class Classes(nn.Module):
    """E[x|z, y] of x ~ N(m_y, SPREAD² I)."""

    def __init__(self, means: tuple[float, ...]) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor((0.0, *means)))

    def forward(self, z: Tensor, gamma: Tensor, *, label: Tensor) -> Tensor:
        mean, (signal, noise) = self.means[label].reshape(-1, 1, 1, 1), rates(gamma.double(), z)
        gain = SPREAD**2 * signal / ((SPREAD * signal).square() + noise.square())
        return mean + gain * (z - signal * mean)


def gaussian_classes(means: tuple[float, ...] = MEANS, **settings: Any) -> Diffusion:
    """A model of Gaussian classes whose decoder does not depend on y."""
    names = tuple(f"class {k}" for k in range(len(means)))
    given: dict[str, Any] = {"predict": "x0", "decoder": "categorical", "timesteps": None, "classes": names} | settings
    return Diffusion(Classes(means), SHAPE, LEVELS, **given).eval()


def drawn_images(n: int, means: tuple[float, ...] = MEANS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of the classes, and their labels 1 … K."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(means), n)
    x_0 = np.array(means)[y].reshape(-1, 1, 1, 1) + SPREAD * rng.standard_normal((n, *SHAPE))
    return torch.from_numpy(((x_0.clip(-1, 1) + 1) * 8).round().astype(np.uint8)), torch.from_numpy(y + 1)


def exact_costs(model: Diffusion, x: Tensor, means: tuple[float, ...]) -> Tensor:
    """The diffusion term of each label but for a part without y, in closed form, shape (B, K).

    With V = ᾱ s² + 1 − ᾱ, ε − ε̂_y = (ᾱ s² ε − √(ᾱ (1 − ᾱ)) (x − m_y))/V. In continuous time
    ½ ∫ ᾱ (1 − ᾱ)/V² dγ is the difference of ½/((1 − s²) V) at the ends; a chain has a sum.
    """
    distance = (to_unit(x, LEVELS).double()[:, None] - torch.tensor(means).double().reshape(-1, 1, 1, 1)).square()
    gammas = model.timeline.chain()[1:]

    def var(gamma: Tensor) -> Tensor:
        return 1 - (1 - SPREAD**2) * torch.sigmoid(-gamma)

    if model.timeline.continuous:
        ends = torch.tensor([bound_of(model).first, bound_of(model).last], dtype=torch.float64)
        first, last = (0.5 / ((1 - SPREAD**2) * var(ends))).tolist()
        factor = first - last
    else:
        here = gammas[1:]
        parts = step_weight(gammas[:-1], here) * torch.sigmoid(-here) * torch.sigmoid(here) / var(here).square()
        factor = float(parts.sum())
    return factor * distance.flatten(2).sum(2)


def profile_for(model: Diffusion, means: tuple[float, ...] = MEANS) -> CostProfile:
    return cost_profile(model, *drawn_images(48, means, seed=1))


def draws_of(model: Diffusion, x: Tensor, count: int) -> Tensor:
    """Draws of all pieces and labels, shape (B, count, pieces, K)."""
    costs = LabelCosts(model, x, range(len(x)), edges_of(model), 0, 4096)
    every, pieces = torch.ones(len(x), len(model.classes), dtype=torch.bool), len(costs.edges)
    drawn = [[costs.draw(i * pieces + k, k, every) for k in range(pieces)] for i in range(count)]
    return torch.stack([torch.stack(each, 1) for each in drawn], 1)


def normal_profile(pieces: int, pairs: int, seed: int = 0) -> tuple[CostProfile, Tensor, Tensor]:
    """A law of differences, two draws of pairs from it, and Δ of each."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((pieces, pieces)) * np.linspace(3, 0.3, pieces)
    slope, noise = rng.uniform(0, 0.2, pieces), rng.uniform(0.5, 4.0, pieces)
    distance = rng.gamma(2.0, 5.0, pairs)
    d = slope * distance[:, None] + rng.standard_normal((pairs, pieces)) @ root.T
    drawn = d + np.sqrt(noise) * rng.standard_normal((2, pairs, pieces))
    law = CostProfile(torch.zeros(pieces), *(torch.from_numpy(each) for each in (slope, root @ root.T, noise)))
    return law, torch.from_numpy(drawn), torch.from_numpy(distance)


def test_draws_of_gaussian_classes_have_no_noise_but_of_t() -> None:
    """d_k is linear in ε, so that a pair ±ε is exact: each step of a chain by the closed form, in any draw."""
    model = gaussian_classes(timesteps=9)
    x, _ = drawn_images(30)
    with torch.no_grad():
        drawn = draws_of(model, x, 3)
    found = (drawn - drawn[..., :1])[:, :, :8]
    truth = exact_costs(model, x, MEANS)
    torch.testing.assert_close(found.sum(2)[:, 0], truth - truth[:, :1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[:, 1:], found[:, :1].expand(-1, 2, -1, -1), rtol=1e-4, atol=1e-3)


def test_differences_cover_their_errors() -> None:
    """Against the closed form, after 2 to 24 draws: 95% within two errors, up to four errors of 450, and none at 7."""
    model = gaussian_classes()
    (x, _), profile = drawn_images(150, seed=3), profile_for(model)
    truth = exact_costs(model, x, MEANS)
    costs = LabelCosts(model, x, range(len(x)), profile.edges, 0, 4096)
    fixed, distance = costs.without_network()
    last = math.inf
    for count in (2, 6, 24):
        with torch.no_grad():
            found = race(fixed, distance, costs.draw, profile.plan(count), math.inf)
        assert found.evaluations.tolist() == [2 * 4 * count] * 150
        true = truth - truth.gather(1, found.label[:, None])
        z = ((found.behind - true) / found.stderr).nan_to_num(0.0)[found.stderr > 0]
        within = float((z.abs() <= 2).double().mean())
        assert 0.95 - 4 * math.sqrt(0.95 * 0.05 / 450) < within
        assert float(z.abs().max()) < 7
        error = float((found.behind - true).square().mean().sqrt())
        assert error < last
        last = error
    assert last < 0.1 * float(truth.std())


def test_the_plan_is_gaussian_conditioning() -> None:
    """Mean and variance of Σ d given draws by numpy's formula, and each next piece by trying them all."""
    profile, drawn, distance = normal_profile(6, 40)
    slope, covariance, noise = (each.numpy() for each in (profile.slope, profile.covariance, profile.noise))
    plan = profile.plan(9)

    def given(pieces: list[int]) -> tuple[np.ndarray, float]:
        inner = covariance[np.ix_(pieces, pieces)] + np.diag(noise[pieces])
        gain = np.linalg.solve(inner, covariance[pieces].sum(1))
        return gain, float(covariance.sum() - gain @ covariance[pieces].sum(1))

    r, news = drawn[0].numpy(), torch.zeros(40, 0, 1, dtype=torch.float64)
    for n in range(9):
        tried = [given([*plan.pieces[:n], k])[1] for k in range(6)]
        assert plan.pieces[n] == int(np.argmin(tried))
        pieces = plan.pieces[: n + 1]
        column = plan.news(n, torch.from_numpy(r[:, [plan.pieces[n]]]), distance[:, None], news)
        news = torch.cat([news, column[:, None]], 1)
        gain, variance = given(pieces)
        of_distance = slope * distance.numpy()[:, None]
        mean = of_distance.sum(1) + (r - of_distance)[:, pieces] @ gain
        found = float(plan.slope.sum()) * distance + (plan.weight[: n + 1] * news[..., 0]).sum(1)
        np.testing.assert_allclose(found.numpy(), mean, rtol=1e-9, atol=1e-9)
        assert float(plan.variance[n + 1]) == pytest.approx(variance, rel=1e-9)
    assert float(plan.variance[0]) == pytest.approx(covariance.sum())


def test_the_profile_is_its_definition_and_finds_the_law() -> None:
    """By numpy for few pairs; for 20,000 within four errors of the law that drew them."""
    law, drawn, distance = normal_profile(4, 12)
    found, d, far = profile_of(drawn, distance, law.edges), drawn.numpy(), distance.numpy()
    slope = np.linalg.lstsq(far[:, None], d.mean(0), rcond=None)[0][0]
    np.testing.assert_allclose(found.slope.numpy(), slope, rtol=1e-9)
    one, two = d - slope * far[:, None]
    product = (one.T @ two + two.T @ one) / 24
    values = np.linalg.eigvalsh(product)
    np.testing.assert_allclose(np.linalg.eigvalsh(found.covariance.numpy()), values.clip(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.noise.numpy(), ((one - two) ** 2).mean(0) / 2, rtol=1e-9)
    law, drawn, distance = normal_profile(4, 20_000)
    found = profile_of(drawn, distance, law.edges)
    size = float(law.covariance.diagonal().max() + law.noise.max())
    for name, error in (("covariance", size), ("noise", float(law.noise.max())), ("slope", math.sqrt(size) / 14)):
        torch.testing.assert_close(
            getattr(found, name), getattr(law, name), rtol=0, atol=4 * error * math.sqrt(2 / 20_000)
        )
    alone = profile_of(drawn, torch.zeros(20_000, dtype=torch.float64), law.edges)
    assert not bool(alone.slope.any())


def test_in_continuous_time_the_difference_is_the_log_likelihood_ratio() -> None:
    """−ln p(x|y) = ‖x − m_y‖²/(2 s²) + …, up to the noise at the first γ, whose variance is 0.7% of s²."""
    x, _ = drawn_images(50)
    ratio = (to_unit(x, LEVELS)[:, None] - torch.tensor(MEANS).reshape(-1, 1, 1, 1)).square().flatten(2).sum(2)
    exact = ratio.double() / (2 * SPREAD**2)
    torch.testing.assert_close(exact_costs(gaussian_classes(), x, MEANS), exact, rtol=8e-3, atol=1e-9)


def test_decided_labels_are_those_of_bayes_rule() -> None:
    """Every label that is decided by 3 errors is that of the closed form, and the differences cover their errors."""
    model = gaussian_classes()
    x, _ = drawn_images(200, seed=2)
    found = classify_images(model, x, profile_for(model), PRIOR, most=48, reject=math.inf, batch=4096)
    cost = exact_costs(model, x, MEANS) - PRIOR.log()
    best = cost.argmin(1)
    clear = found.in_errors().min(1).values > 3
    assert torch.equal(found.label[clear], best[clear])
    assert 0.3 < float(clear.double().mean()) < 1
    assert float((found.label == best).double().mean()) > 0.9
    true = cost - cost.gather(1, found.label[:, None])
    z = ((found.behind - true) / found.stderr).nan_to_num(0.0)
    assert float(z.abs().max()) < 5
    exact = (-cost).softmax(1)
    assert float((found.probabilities() - exact).abs().mean()) < 0.05


def test_labels_share_their_noise() -> None:
    """The variance of a paired difference is far below that of two draws with their own noise."""
    model = gaussian_classes()
    x, _ = drawn_images(100)
    with torch.no_grad():
        drawn = draws_of(model, x, 4)
    paired = (drawn[..., 1] - drawn[..., 2]).var(1).mean()
    unpaired = (drawn[..., 1] - drawn[..., 2].roll(1, 1)).var(1).mean()
    assert float(paired) < 0.1 * float(unpaired)


def test_labels_that_are_clearly_worse_are_not_evaluated_again() -> None:
    """Far classes, whose nearest are 4.8 standard deviations apart: fewer evaluations for the same labels."""
    means = (-0.9, -0.3, 0.3, 0.9)
    model = gaussian_classes(means)
    (x, y), profile = drawn_images(100, means), profile_for(model, means)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    every = classify_images(model, x, profile, even, most=16, reject=math.inf, batch=4096)
    fewer = classify_images(model, x, profile, even, most=16, batch=4096)
    assert every.evaluations.tolist() == [2 * 8 * 4] * 100
    assert float(fewer.evaluations.double().mean()) < 0.5 * 64
    assert float((fewer.label == y - 1).double().mean()) > 0.95
    assert float((fewer.label == every.label).double().mean()) > 0.97


def single_piece(draws: int) -> Plan:
    """Of one piece with C = ν = 5: given n draws r the mean is Σ r/(n + 1), and the variance 5/(n + 1)."""
    five = torch.full((1,), 5.0, dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    return CostProfile(nothing, nothing, five[:, None], five).plan(draws)


def test_a_label_returns_when_the_leader_loses() -> None:
    """2 is out at first, by 12 > 3 √5; 1 loses its lead to 0; 2 is 6 behind 0, and makes up for its draw."""
    script, asked = torch.tensor([[0.0, 20.0, 7.0]], dtype=torch.float64), []

    def draw(number: int, piece: int, left: Tensor) -> Tensor:
        asked.append((number, left[0].tolist()))
        return script.where(left, torch.nan)

    fixed = torch.tensor([[6.0, 0.0, 12.0]], dtype=torch.float64)
    found = race(fixed, torch.zeros_like(fixed), draw, single_piece(1))
    assert asked == [(0, [True, True, False]), (0, [False, False, True])]
    assert (found.label.tolist(), found.evaluations.tolist()) == ([0], [6])
    # r = 20 and 7, e² = r²/10, and the scale (WEIGHT + e²)/(WEIGHT + 1)
    assert found.behind[0].tolist() == pytest.approx([0.0, -6 + 20 / 2, 6 + 7 / 2])
    scales = [(WEIGHT + e) / (WEIGHT + 1) for e in (40, 4.9)]
    assert found.stderr[0].tolist() == pytest.approx([0.0, *(math.sqrt(scale * 2.5) for scale in scales)])


def test_the_error_has_the_scale_of_the_image() -> None:
    """C = ν: given n draws the variance is C/(n + 1); times (WEIGHT + Σ e²)/(WEIGHT + n), e by a Cholesky factor."""
    r = np.array([40.0, -3.0, 8.0])
    script = torch.from_numpy(np.stack([np.zeros(3), r], 1))
    start = torch.zeros(1, 2, dtype=torch.float64)

    def draw(number: int, piece: int, left: Tensor) -> Tensor:
        return script[number][None].where(left, torch.nan)

    found = race(start, start, draw, single_piece(3), math.inf)
    inner = 5 * (np.ones((3, 3)) + np.eye(3))
    scale = (WEIGHT + r @ np.linalg.solve(inner, r)) / (WEIGHT + 3)
    assert float(found.behind[0, 1]) == pytest.approx(r.sum() / 4)
    assert float(found.stderr[0, 1]) == pytest.approx(math.sqrt(scale * 5 / 4))


def test_a_class_without_prior_is_never_evaluated() -> None:
    model = gaussian_classes()
    x, _ = drawn_images(20)
    prior = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    found = classify_images(model, x, profile_for(model), prior, most=7, reject=math.inf)
    assert found.evaluations.tolist() == [12] * 20
    assert set(found.label.tolist()) <= {0, 2}
    assert bool((found.probabilities()[:, [1, 3]] == 0).all())
    alone = classify_images(model, x, profile_for(model), torch.tensor([0.0, 1.0, 0.0, 0.0]).double())
    assert (alone.label.tolist(), alone.evaluations.tolist()) == ([1] * 20, [0] * 20)
    assert not bool(alone.undecided.any())


@pytest.mark.parametrize("reject", [math.inf, REJECT])
def test_an_image_between_two_means_is_undecided(reject: float) -> None:
    """What is odd in ε cancels, so that each draw of the difference is 0; both labels have all draws."""
    means = (-0.25, 0.25)
    model, x = gaussian_classes(means), torch.full((40, *SHAPE), 8, dtype=torch.uint8)
    assert torch.allclose(exact_costs(model, x[:1], means).diff(), torch.zeros(1, dtype=torch.float64))
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    found = classify_images(model, x, profile_for(model, means), prior, most=32, batch=4096, reject=reject)
    assert bool(found.undecided.all())
    assert found.evaluations.tolist() == [64] * 40
    assert float(found.behind.abs().max()) < 1e-4


def test_two_names_of_one_class_are_always_undecided() -> None:
    model = gaussian_classes((0.1, 0.1))
    x, _ = drawn_images(20)
    found = classify_images(model, x, profile_for(model, (0.1, 0.1)), torch.full((2,), 0.5).double(), most=4)
    assert bool(found.undecided.all())
    torch.testing.assert_close(found.probabilities(), torch.full((20, 2), 0.5, dtype=torch.float64))


def test_an_image_does_not_depend_on_the_batch_or_the_others() -> None:
    """To round-off of the network."""
    model = gaussian_classes()
    (x, _), profile = drawn_images(40), profile_for(model)
    whole = classify_images(model, x, profile, PRIOR, most=6, batch=4096)
    small = classify_images(model, x, profile, PRIOR, most=6, batch=7)
    rows = classify_images(model, x, profile, PRIOR, most=6, rows=range(11, 30))
    for field in ("label", "behind", "stderr", "evaluations"):
        wanted = getattr(whole, field)
        torch.testing.assert_close(getattr(small, field), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(getattr(rows, field), wanted[11:30], rtol=1e-5, atol=1e-5)


def test_progress_counts_images_and_the_draws_of_those_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of 15 images of 8 draws: never fewer than before, more than once in a part, and all at the end."""
    model = gaussian_classes()
    monkeypatch.setattr(classification, "TOGETHER", 15 * model.dims)
    seen: list[float] = []
    (x, _), profile = drawn_images(40), profile_for(model)
    classify_images(model, x, profile, PRIOR, most=16, progress=seen.append)
    assert seen == sorted(seen)
    assert {15, 30, 40} <= set(seen)
    assert len(set(seen)) > 6
    assert seen[-1] == 40
    assert any(done % 1 for done in seen)
    assert all((8 * done) % 1 == 0 for done in seen)


@pytest.mark.parametrize("clusters", [0, 3])
def test_costs_are_those_of_the_bound(clusters: int) -> None:
    """Differences of labels by a score in the form ``denoising``, with a decoder that depends on the label.

    z-scores by the errors of both: below 5, with a mean square of 1 up to four errors of 40 of them.
    """
    model, count, replicates = model_of(clusters), 20, 12
    x, _ = images(20)
    with torch.no_grad():
        costs, _ = LabelCosts(model, x, range(len(x)), edges_of(model), 0, 4096).without_network()
        drawn = costs[:, None] + draws_of(model, x, count).sum(2)
    scores = [
        score_likelihood(model, x, replicates=replicates, timesteps=7, labels=torch.full((20,), k)).estimates()
        for k in (1, 2, 3)
    ]
    bounds = torch.stack(scores, 2)
    found, wanted = (each[..., 1:] - each[..., :1] for each in (drawn, bounds))
    stderr = (found.var(1) / count + wanted.var(1) / replicates).sqrt()
    z = (found.mean(1) - wanted.mean(1)) / stderr
    assert float(z.abs().max()) < 5
    assert float(z.square().mean()) < 1 + 4 * math.sqrt(2 / 40)


@pytest.mark.parametrize(("behind", "error"), [(0.5, 0.0), (1.0, 1.0), (9.0, 3.0), (2.0, 6.0), (-1.0, 4.0)])
def test_the_stated_probability_is_a_mean_over_the_error(behind: float, error: float) -> None:
    """Of a sigmoid for two labels, by quadrature; without an error of many labels it is Bayes' rule."""
    costs = torch.tensor([[0.0, behind]], dtype=torch.float64)
    one = Classified(torch.tensor([0]), costs, error * (costs != 0), torch.tensor([2]))
    law = stats.norm(behind, max(error, 1e-6))
    places = np.linspace(law.ppf(1e-12), law.ppf(1 - 1e-12), 20_001)
    wanted = integrate.trapezoid(law.pdf(places) / (1 + np.exp(-places)), places)
    assert float(one.probabilities()[0, 0]) == pytest.approx(wanted, abs=2e-3)
    assert bool(one.undecided) == (behind <= UNDECIDED * error)
    costs = torch.tensor([[0.0, 1.0, 3.0, math.inf]], dtype=torch.float64)
    many = Classified(torch.tensor([0]), costs, torch.zeros(1, 4), torch.tensor([4]))
    torch.testing.assert_close(many.probabilities(), (-costs).softmax(1))


def test_right_probabilities_are_calibrated() -> None:
    """Labels that are right with their stated probability: each bin within four errors, and the error of a bad one."""
    rng = np.random.default_rng(0)
    stated = torch.from_numpy(rng.uniform(0.3, 1.0, 4000))
    right = torch.from_numpy(rng.random(4000)) < stated
    table = reliability(stated, right)
    assert sum(each.n for each in table) == 4000
    for each in table:
        assert each.low < each.stated <= each.high
        assert abs(each.right - each.stated) < 4 * math.sqrt(each.stated * (1 - each.stated) / each.n)
    assert calibration_error(table) < 0.03
    sure = reliability(torch.ones(10), torch.arange(10) < 7)
    assert [tuple(each) for each in sure] == [pytest.approx((0.9, 1.0, 10, 1.0, 0.7))]
    assert calibration_error(sure) == pytest.approx(0.3)
    halves = reliability(torch.tensor([0.5, 0.500001]), torch.tensor([True, False]))
    assert [each.high for each in halves] == [0.5, 0.6]


def test_confusions_are_counted() -> None:
    truth, label = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 2, 2])
    undecided = torch.tensor([False, False, False, False, True, False])
    assert confusions(truth, label, undecided, 3).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]]
