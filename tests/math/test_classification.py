"""Labels by the bound of each label, against closed forms for Gaussian classes, and the law of their errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from test_labels import CLASSES, images, model_of
from torch import Tensor, nn

from nelbo.diffusion.process import rates
from nelbo.diffusion.variances import step_weight
from nelbo.metrics import score_likelihood
from nelbo.metrics.calibration import calibration_error, confusions, reliability
from nelbo.metrics.classification import REJECT, UNDECIDED, Classified, apart, classify_images, race
from nelbo.metrics.label_costs import UNIFORM, CostProfile, LabelCosts, cost_profile, profile_of
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


def draws_of(model: Diffusion, x: Tensor, profile: CostProfile, count: int, seed: int = 0) -> Tensor:
    """Draws of the costs of all labels, shape (B, count, K)."""
    costs = LabelCosts(model, x, range(len(x)), profile, seed, 4096)
    every = torch.ones(len(x), len(model.classes), dtype=torch.bool)
    return torch.stack([costs.draw(number, every) for number in range(count)], 1)


@pytest.mark.parametrize("T", [None, 9])
def test_differences_are_exact_and_their_errors_have_the_right_law(T: int | None) -> None:
    """Against the closed form: z-scores are N(0, 1) by KS for each pair of labels, and nowhere is |z| > 5."""
    model = gaussian_classes(timesteps=T)
    (x, _), profile = drawn_images(150), profile_for(model)
    with torch.no_grad():
        drawn = draws_of(model, x, profile, 48)
    truth = exact_costs(model, x, MEANS)
    behind, stderr = apart(torch.zeros_like(truth), drawn, torch.zeros(len(x), dtype=torch.long), profile)
    z = (behind - (truth - truth[:, :1]))[:, 1:] / stderr[:, 1:]
    for column in z.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 0.001
    assert float(z.abs().max()) < 5


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
        drawn = draws_of(model, x, profile_for(model), 8)
    paired = (drawn[..., 1] - drawn[..., 2]).var(1).mean()
    unpaired = (drawn[:, :, 1] - drawn[:, :, 2].roll(1, 1)).var(1).mean()
    assert float(paired) < 0.1 * float(unpaired)


def test_labels_that_are_clearly_worse_are_not_evaluated_again() -> None:
    """Far classes, whose nearest are 4.8 standard deviations apart: fewer evaluations for the same labels."""
    means = (-0.9, -0.3, 0.3, 0.9)
    model = gaussian_classes(means)
    (x, y), profile = drawn_images(100, means), profile_for(model, means)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    every = classify_images(model, x, profile, even, most=16, reject=math.inf, batch=4096)
    fewer = classify_images(model, x, profile, even, most=16, batch=4096)
    assert every.evaluations.tolist() == [64] * 100
    assert float(fewer.evaluations.double().mean()) < 0.5 * 64
    assert float((fewer.label == y - 1).double().mean()) > 0.95
    assert float((fewer.label == every.label).double().mean()) > 0.97


def test_a_label_returns_when_the_leader_loses() -> None:
    """Scripted draws: 2 is out after the first, 1 loses its lead in the second, and 2 is compared with 0."""
    script = torch.tensor([[6.0, 0.0, 9.0], [-80.0, 9.0, 9.0], [0.0, 9.0, -90.0]], dtype=torch.float64)
    asked: list[list[bool]] = []

    def draw(number: int, left: Tensor) -> Tensor:
        asked.append(left[0].tolist())
        return script[number][None].where(left, torch.nan)

    profile = CostProfile(torch.zeros(2), torch.ones(2) / 2, (5.0, 0.0))
    found = race(torch.zeros(1, 3, dtype=torch.float64), draw, profile, 2)
    assert asked == [[True, True, True], [True, True, False]]
    assert found.label.tolist() == [0]
    assert found.evaluations.tolist() == [5]
    # 0 and 2 have one draw in common, 9 − 6 = 3, whose variance is a = 5.
    assert float(found.behind[0, 2]) == pytest.approx(3)
    assert float(found.stderr[0, 2]) == pytest.approx(math.sqrt(5))
    # 0 and 1 have two: −6 + 0 and 9 + 80; (4 · 5 + Σ (d − d̄)²)/(4 + 1)/2.
    d = np.array([-6.0, 89.0])
    assert float(found.behind[0, 1]) == pytest.approx(d.mean())
    assert float(found.stderr[0, 1]) == pytest.approx(math.sqrt((20 + ((d - d.mean()) ** 2).sum()) / 5 / 2))


def test_a_class_without_prior_is_never_evaluated() -> None:
    model = gaussian_classes()
    x, _ = drawn_images(20)
    prior = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    found = classify_images(model, x, profile_for(model), prior, most=3, reject=math.inf)
    assert found.evaluations.tolist() == [6] * 20
    assert set(found.label.tolist()) <= {0, 2}
    assert bool((found.probabilities()[:, [1, 3]] == 0).all())
    alone = classify_images(model, x, profile_for(model), torch.tensor([0.0, 1.0, 0.0, 0.0]).double())
    assert (alone.label.tolist(), alone.evaluations.tolist()) == ([1] * 20, [0] * 20)
    assert not bool(alone.undecided.any())


@pytest.mark.parametrize(("reject", "low", "high"), [(math.inf, 0.91, 0.98), (REJECT, 0.88, 0.97)])
def test_equal_classes_are_undecided_as_often_as_stated(reject: float, low: float, high: float) -> None:
    """An image between two means: P(|z| ≤ 2) = 0.954, within four errors of 400 images; looking often costs some."""
    means = (-0.25, 0.25)
    model, x = gaussian_classes(means), torch.full((400, *SHAPE), 8, dtype=torch.uint8)
    assert torch.allclose(exact_costs(model, x[:1], means).diff(), torch.zeros(1, dtype=torch.float64))
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    found = classify_images(model, x, profile_for(model, means), prior, most=32, batch=4096, reject=reject)
    assert low < float(found.undecided.double().mean()) < high
    assert 160 < int(found.label.sum()) < 240  # four errors of 400 coins


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


@pytest.mark.parametrize("clusters", [0, 3])
def test_costs_are_those_of_the_bound(clusters: int) -> None:
    """Differences of labels by a score in the form ``denoising``, with a decoder that depends on the label.

    z-scores by the errors of both: below 5, with a mean square of 1 up to four errors of 40 of them.
    """
    model, count, replicates = model_of(clusters), 100, 12
    x, names = images(20)
    y = torch.tensor([CLASSES.index(name) + 1 for name in names])
    costs = LabelCosts(model, x, range(len(x)), cost_profile(model, x, y), 0, 4096)
    with torch.no_grad():
        drawn = costs.without_network()[:, None] + draws_of(model, x, costs.profile, count)
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


def test_the_profile_is_its_definition() -> None:
    """p ∝ root mean square with a uniform part; a and b by hand."""
    d = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 3)) * np.array([1.0, 5.0, 0.0]))
    d[:20, 0] += 20.0
    found = profile_of(d, torch.tensor([0.0, 0.5, 1.0]))
    size = d.square().mean(0).sqrt()
    torch.testing.assert_close(found.probabilities, (1 - UNIFORM) * size / size.sum() + UNIFORM / 3)
    mean = d.sum(1)
    variance = (d.square() / found.probabilities).sum(1) - mean.square()
    order = mean.abs().argsort()
    a = float(variance[order[:20]].mean())
    b = float((variance[order[20:]] - a).clamp(min=0).sum() / mean[order[20:]].square().sum())
    assert found.spread == pytest.approx((a, b))
    assert float(found.variance(torch.tensor(2.0))) == pytest.approx(a + 4 * b)
    nowhere = profile_of(torch.zeros(4, 3), torch.tensor([0.0, 0.5, 1.0]))
    assert nowhere.probabilities.tolist() == pytest.approx([1 / 3] * 3)


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
