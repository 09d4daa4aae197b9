"""Markov chains, against matrix powers, enumeration, and simulations; noising chains against Bayes' rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from math_helpers import table_of
from scipy import stats
from torch import Tensor

from nelbo.diffusion.schedules import SCHEDULES
from nelbo.rng import Draws
from nelbo.theory.markov import MarkovChain, NoisingChain, absorbing_noise, draw, even_beta, uniform_noise

CPU = torch.device("cpu")
THREE_SIGMAS = 0.0027


def random_matrix(n: int, seed: int, zeros: float = 0.3) -> Tensor:
    """Rows far from uniform, a share of them zeros, all states in one circle so that the chain is irreducible."""
    rng = np.random.default_rng(seed)
    P = rng.gamma(0.7, size=(n, n)) * (rng.random((n, n)) > zeros) + 0.1 * np.roll(np.eye(n), 1, axis=1)
    return torch.from_numpy(P / P.sum(1, keepdims=True))


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def draws(n: int, seed: int = 0, first: int = 0) -> Draws:
    return Draws(seed, 0, range(first, first + n), n, CPU)


def assert_counts(states: Tensor, law: Tensor) -> None:
    """The χ² test: states have the law (three sigmas), and none has no probability."""
    counts = torch.bincount(states, minlength=len(law)).double()
    assert bool((counts[law == 0] == 0).all())
    assert stats.chisquare(counts[law > 0], len(states) * law[law > 0]).pvalue > THREE_SIGMAS


# Laws


@pytest.mark.parametrize("n", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_law_after_n_steps_is_one_step_n_times(n: int, seed: int) -> None:
    P = random_matrix(5, seed)
    start = torch.eye(5, dtype=torch.float64)
    law = start
    for _ in range(n):
        law = torch.einsum("bi,ij->bj", law, P)
    # 40 sums of five numbers below one.
    torch.testing.assert_close(MarkovChain(P).law(start, n), law, rtol=0, atol=1e-14)


def test_the_law_after_3_steps_is_a_sum_over_paths() -> None:
    P, start = random_matrix(4, 2), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    law = torch.zeros(4, dtype=torch.float64)
    for a, b, c, d in itertools.product(range(4), repeat=4):
        law[d] += start[a] * P[a, b] * P[b, c] * P[c, d]
    torch.testing.assert_close(MarkovChain(P).law(start, 3), law, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_stationary_law_is_the_left_eigenvector(n: int) -> None:
    P = random_matrix(n, n)
    pi = MarkovChain(P).stationary()
    values, vectors = np.linalg.eig(P.numpy().T)
    vector = vectors[:, np.abs(values - 1).argmin()].real
    np.testing.assert_allclose(pi, vector / vector.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(pi @ P, pi, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (1e-15, 3e-14), (2.0**-40, 0.5)])
def test_the_stationary_law_of_two_states_is_exact_however_rarely_they_change(a: float, b: float) -> None:
    """π = (b, a)/(a + b), to a few ε: no digit is lost where P is the unit matrix to 15 digits."""
    pi = MarkovChain(matrix([[1 - a, a], [b, 1 - b]])).stationary()
    assert pi.tolist() == pytest.approx([b / (a + b), a / (a + b)], rel=1e-15)


def test_the_law_tends_to_the_stationary_one() -> None:
    """P³⁰⁰ of a chain whose second eigenvalue is below 0.9: 0.9³⁰⁰ = 2e-14."""
    P = random_matrix(6, 0)
    assert sorted(np.abs(np.linalg.eigvals(P)))[-2] < 0.9
    chain = MarkovChain(P)
    far = chain.law(torch.eye(6, dtype=torch.float64), 300)
    torch.testing.assert_close(far, chain.stationary().expand(6, 6), rtol=0, atol=1e-12)


def test_a_periodic_chain_has_one_stationary_law_and_tends_to_none() -> None:
    """A circle of 3, and a walk on 4 points between walls (period 2, where π is the share of edges)."""
    circle = MarkovChain(matrix([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    assert circle.stationary().tolist() == pytest.approx([1 / 3] * 3, abs=1e-16)
    start = matrix([[1, 0, 0]])[0]
    assert [circle.law(start, n).argmax().item() for n in range(5)] == [0, 1, 2, 0, 1]
    walk = MarkovChain(matrix([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]]))
    assert walk.stationary().tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6], abs=1e-15)


# 0 → 1 or 4; {1, 3} and {2} are closed; 4 → 0 or 2: 0 and 4 are transient.
REDUCIBLE = matrix(
    [[0, 0.5, 0, 0, 0.5], [0, 0.2, 0, 0.8, 0], [0, 0, 1, 0, 0], [0, 0.4, 0, 0.6, 0], [0.5, 0, 0.5, 0, 0]]
)


def test_a_chain_with_several_closed_classes_has_a_law_on_each_and_says_so() -> None:
    chain = MarkovChain(REDUCIBLE)
    assert chain.closed_classes() == [[1, 3], [2]]
    extreme = chain.stationary_laws()
    torch.testing.assert_close(extreme, matrix([[0, 1 / 3, 0, 2 / 3, 0], [0, 0, 1, 0, 0]]), rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match=r"not unique.*\[\[1, 3\], \[2\]\]"):
        chain.stationary()
    # From 0: to {1, 3} with probability h = ½ + ½·½ h, so h = ⅔; the limit is a mixture of the two.
    start = torch.eye(5, dtype=torch.float64)[0]
    torch.testing.assert_close(chain.law(start, 400), matrix([[2 / 3, 1 / 3]])[0] @ extreme, rtol=0, atol=1e-12)


def test_transient_states_have_no_stationary_mass() -> None:
    """One closed class beside transient states: unique. And the unit matrix: every state is a class of its own."""
    one = MarkovChain(matrix([[0.5, 0.5, 0], [0, 0.1, 0.9], [0, 0.3, 0.7]]))
    assert one.stationary().tolist() == pytest.approx([0, 0.25, 0.75], abs=1e-16)
    assert MarkovChain(torch.eye(3)).closed_classes() == [[0], [1], [2]]


@pytest.mark.parametrize("seed", range(6))
def test_closed_classes_by_following_every_edge(seed: int) -> None:
    """Against a search from each state, on sparse chains that fall into pieces."""
    rng = np.random.default_rng(seed)
    P = np.eye(9) * (rng.random(9) < 0.5) + (rng.random((9, 9)) < 0.12)
    P[P.sum(1) == 0, 0] = 1
    reach = []
    for i in range(9):
        seen, todo = {i}, [i]
        while todo:
            new = set(P[todo.pop()].nonzero()[0].tolist()) - seen
            seen |= new
            todo += new
        reach.append(seen)
    truth = {frozenset(reach[i]) for i in range(9) if all(i in reach[j] for j in reach[i])}
    chain = MarkovChain(torch.from_numpy(P / P.sum(1, keepdims=True)))
    found = chain.closed_classes()
    assert {frozenset(states) for states in found} == truth
    assert found == sorted(found)
    laws = chain.stationary_laws()
    torch.testing.assert_close(laws @ chain.P, laws, rtol=0, atol=1e-15)
    assert [set(law.nonzero()[:, 0].tolist()) for law in laws] == [set(states) for states in found]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], "sum to 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "at least 0"),
        ([[float("nan"), 1.0], [0.5, 0.5]], "sum to 1"),
        ([[0.5, 0.5]], "square"),
        ([], "square"),
    ],
)
def test_what_is_no_transition_matrix_is_refused(rows: list[list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MarkovChain(matrix(rows))


def test_what_no_chain_can_start_from_is_refused() -> None:
    chain = MarkovChain(random_matrix(3, 0))
    for start, n, words in (([0.5, 0.5], 1, "has 2 states"), ([0.5, 0.6, 0.0], 1, "sum to 1"), ([1, 0, 0], -1, "-1")):
        with pytest.raises(ValueError, match=words):
            chain.law(torch.tensor(start, dtype=torch.float64), n)
    for state in (-1, 3):
        with pytest.raises(ValueError, match="states must be"):
            chain.simulate(torch.tensor([state]), 1, draws(1))


# Simulation


def test_simulated_states_and_moves_have_their_laws() -> None:
    """20,000 paths: the law of X_n at every n, and of each move given the state before it."""
    n, steps = 20_000, 4
    P = random_matrix(4, 3)
    chain = MarkovChain(P)
    path = chain.simulate(torch.zeros(n, dtype=torch.long), steps, draws(n))
    assert path.shape == (n, steps + 1)
    start = torch.eye(4, dtype=torch.float64)[0]
    for k in range(1, steps + 1):
        assert_counts(path[:, k], chain.law(start, k))
    last = path[:, -2]
    for state in range(4):
        assert_counts(path[last == state, -1], P[state])


def test_a_long_path_spends_its_time_as_the_stationary_law_says() -> None:
    """The ergodic theorem on a circle of 4 with a rest: within 4 s.e. of the share, by 40 stretches of the path."""
    P = matrix([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0.2, 0.8], [1, 0, 0, 0]])
    chain = MarkovChain(P)
    path = chain.simulate(torch.tensor([0]), 4000, draws(1))[0, 1:]
    share = torch.nn.functional.one_hot(path, 4).double().reshape(40, 100, 4).mean(1)
    error = share.std(0) / 40**0.5
    assert bool(((share.mean(0) - chain.stationary()).abs() < 4 * error).all())


def test_a_path_is_its_examples_own() -> None:
    """The same whatever the batch, the beginning of a longer one, and another for another seed or index."""
    chain, start = MarkovChain(random_matrix(5, 4)), torch.tensor([0, 1, 2, 3, 4, 0])
    whole = chain.simulate(start, 30, draws(6))
    parts = [chain.simulate(start[:2], 30, draws(2)), chain.simulate(start[2:], 30, draws(4, first=2))]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(chain.simulate(start, 12, draws(6)), whole[:, :13])
    assert torch.equal(chain.simulate(start, 0, draws(6)), start[:, None])
    assert not torch.equal(chain.simulate(start, 30, draws(6, seed=1)), whole)
    assert not torch.equal(whole[0], whole[5])


@pytest.mark.parametrize("law", [[0.0, 0.3, 0.0, 0.7, 0.0], [1.0, 0.0], [0.1] * 10])
def test_draw_gives_every_state_its_stretch_of_the_unit_interval(law: list[float]) -> None:
    """10⁵ evenly spaced u: each state's share to 1e-5, and at both ends none without probability."""
    p = torch.tensor(law, dtype=torch.float64)
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    share = torch.bincount(draw(p, u), minlength=len(p)).double() / len(u)
    torch.testing.assert_close(share, p, rtol=0, atol=1.01e-5)
    ends = draw(p, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    possible = p.nonzero()[:, 0]
    assert ends.tolist() == [int(possible[0]), int(possible[-1])]


# Noise over pixel levels

L = 4
BETA = torch.tensor([0.05, 0.2, 0.1, 0.45, 0.6], dtype=torch.float64)
NOISES: dict[str, Callable[[Tensor], NoisingChain]] = {
    "uniform": lambda beta: uniform_noise(beta, L),
    "absorbing": lambda beta: absorbing_noise(beta, L),
    "any": lambda beta: NoisingChain(beta, torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64)),
}
every_noise = pytest.mark.parametrize("name", list(NOISES))
every_beta = pytest.mark.parametrize("beta", [BETA, even_beta(5)], ids=["given", "even"])


def papers_matrix(name: str, beta: float) -> Tensor:
    """Q_t entry by entry, as the paper writes them: appendices A.2.1 and A.2.2."""
    n = L + 1 if name == "absorbing" else L
    Q = torch.zeros(n, n, dtype=torch.float64)
    for i, j in itertools.product(range(n), repeat=2):
        if name == "uniform":
            Q[i, j] = 1 - (n - 1) / n * beta if i == j else beta / n
        elif name == "absorbing":
            Q[i, j] = 1.0 if i == j == L else (1 - beta) * (i == j) + beta * (j == L)
        else:
            Q[i, j] = (1 - beta) * (i == j) + beta * [0.1, 0.2, 0.0, 0.7][j]
    return Q


def product(name: str, beta: Tensor, s: int, t: int) -> Tensor:
    """Q_{s+1} ⋯ Q_t."""
    Q = torch.eye(L + 1 if name == "absorbing" else L, dtype=torch.float64)
    for k in range(s, t):
        Q = Q @ papers_matrix(name, float(beta[k]))
    return Q


@every_noise
@every_beta
def test_a_step_is_the_papers_matrix(name: str, beta: Tensor) -> None:
    noise = NOISES[name](beta)
    assert noise.T == 5
    for t in range(1, 6):
        torch.testing.assert_close(noise.matrix(t), papers_matrix(name, float(beta[t - 1])), rtol=0, atol=1e-15)


@every_noise
@every_beta
def test_a_jump_is_the_product_of_the_steps(name: str, beta: Tensor) -> None:
    noise = NOISES[name](beta)
    states = torch.arange(len(noise.pi))
    for t in range(6):
        jump = noise.jump(states, torch.full_like(states, t))
        torch.testing.assert_close(jump, product(name, beta, 0, t), rtol=0, atol=1e-15)


@every_noise
@every_beta
def test_the_posterior_is_bayes_rule(name: str, beta: Tensor) -> None:
    """For every x_0, x_t that can come from it, and s < t: the joint of x_s and x_t by matrices, normalised."""
    noise = NOISES[name](beta)
    n = len(noise.pi)
    for s, t in itertools.combinations(range(6), 2):
        first, then = product(name, beta, 0, s), product(name, beta, s, t)
        joint = first[:, :, None] * then[None]  # [x_0, x_s, x_t]
        evidence = joint.sum(1)
        for x_0, x_t in itertools.product(range(n), repeat=2):
            if evidence[x_0, x_t] == 0:
                continue
            law = noise.posterior(*(torch.tensor([k]) for k in (x_0, x_t, t, s)))[0]
            torch.testing.assert_close(law, joint[x_0, :, x_t] / evidence[x_0, x_t], rtol=0, atol=1e-14)


@every_noise
def test_batches_of_images_are_done_one_by_one(name: str) -> None:
    """Images of 3 × 2 pixels, each at its own t; s is t − 1 unless given."""
    noise = NOISES[name](BETA)
    x_0 = torch.arange(12).reshape(2, 3, 2) % 3 % len(noise.pi)
    t = torch.tensor([2, 5])
    x_t = torch.where(x_0 == 0, x_0, len(noise.pi) - 1)
    whole = noise.posterior(x_0, x_t, t)
    assert whole.shape == (2, 3, 2, len(noise.pi))
    for b, i, j in itertools.product(range(2), range(3), range(2)):
        one = noise.posterior(x_0[b, i, j][None], x_t[b, i, j][None], t[b][None], t[b][None] - 1)
        torch.testing.assert_close(whole[b, i, j], one[0], rtol=0, atol=1e-16)
        jump = noise.jump(x_0[b, i, j][None], t[b][None])
        torch.testing.assert_close(noise.jump(x_0, t)[b, i, j], jump[0], rtol=0, atol=1e-16)


@every_noise
def test_what_is_left_in_the_end_is_stationary(name: str) -> None:
    """π is the stationary law of every Q_t, and the law of x_T where β_T = 1, from wherever."""
    noise = NOISES[name](even_beta(5))
    for t in range(1, 6):
        torch.testing.assert_close(MarkovChain(noise.matrix(t)).stationary(), noise.pi, rtol=0, atol=1e-15)
    states = torch.arange(len(noise.pi))
    end = noise.jump(states, torch.full_like(states, 5))
    assert torch.equal(end, noise.pi.expand_as(end))


def test_absorbed_stays_absorbed_and_nothing_else_moves() -> None:
    """The share that is left is ᾱ_t, and with the even schedule 1 − t/T."""
    T = 8
    noise = absorbing_noise(even_beta(T), L)
    for t in range(T + 1):
        law = noise.jump(torch.tensor([2, L]), torch.tensor([t, t]))
        assert law[0].tolist() == pytest.approx([0, 0, 1 - t / T, 0, t / T], abs=1e-15)
        assert law[1].tolist() == pytest.approx([0, 0, 0, 0, 1], abs=1e-15)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_share_that_is_kept_is_the_schedules(name: str) -> None:
    """With DDPM's β_t, ᾱ_t is DDPM's; 1e-12 relative: a sum of a thousand logarithms down to e^{−10}."""
    table = table_of(name, 1000)
    noise = absorbing_noise(table.beta[1:], 2)
    t = torch.arange(len(table.beta))
    law = noise.jump(torch.zeros_like(t), t)
    torch.testing.assert_close(law[:, 0], table.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(law[:, 2], table.noise_var, rtol=1e-12, atol=0)


@every_noise
def test_simulated_noise_has_the_law_of_the_jump_and_of_the_posterior(name: str) -> None:
    """20,000 paths by single steps: the law of x_4, and of x_3 among those that ended in the likeliest x_4."""
    n, noise = 20_000, NOISES[name](BETA)
    u = torch.from_numpy(np.random.default_rng(0).random((4, n)))
    x_0 = torch.ones(n, dtype=torch.long)
    path = [x_0]
    for t in range(1, 5):
        path.append(draw(noise.step(path[-1], torch.full((n,), t)), u[t - 1]))
    law = noise.jump(x_0[:1], torch.tensor([4]))[0]
    assert_counts(path[4], law)
    x_t = law.argmax()[None]
    assert_counts(path[3][path[4] == x_t], noise.posterior(x_0[:1], x_t, torch.tensor([4]))[0])


@pytest.mark.parametrize("beta", [[], [0.0, 0.5], [0.5, 1.1], [1.0, 0.5], [float("nan")]])
def test_what_is_no_schedule_is_refused(beta: list[float]) -> None:
    for make in NOISES.values():
        with pytest.raises(ValueError, match="β_t"):
            make(torch.tensor(beta, dtype=torch.float64))


def test_what_cannot_be_is_refused() -> None:
    noise = absorbing_noise(BETA, L)
    zero, one, t = torch.tensor([0]), torch.tensor([1]), torch.tensor([3])
    with pytest.raises(ValueError, match="cannot become"):
        noise.posterior(zero, one, t)
    for states in (torch.tensor([L + 1]), torch.tensor([-1])):
        for call in (noise.jump, noise.step):
            with pytest.raises(ValueError, match="states must be"):
                call(states, t)
        with pytest.raises(ValueError, match="states must be"):
            noise.posterior(zero, states, t)
    for wrong_t, s in ((6, 1), (3, 3), (2, 3), (3, -1)):
        with pytest.raises(ValueError, match="steps must"):
            noise.posterior(zero, zero, torch.tensor([wrong_t]), torch.tensor([s]))
    with pytest.raises(ValueError, match="sum to 1"):
        NoisingChain(BETA, torch.tensor([0.5, 0.6], dtype=torch.float64))
