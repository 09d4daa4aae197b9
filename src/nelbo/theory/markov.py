"""Markov chains in discrete time over discrete states, and noising chains over pixel levels.

    P[X_{n+1} = j | X_n = i] = P_ij,   distribution of X_n = (distribution of X_0) Pⁿ,   stationary: π P = π

A noising chain replaces its state with probability β_t by a sample from π (Austin et al. 2021, D3PM):

    q(x_t | x_{t−1}) = α_t [x_t = x_{t−1}] + β_t π(x_t),   α_t = 1 − β_t
    q(x_t | x_0)     = ᾱ_t [x_t = x_0] + (1 − ᾱ_t) π(x_t),   ᾱ_t = ∏_{i≤t} α_i          D3PM (3)

π is uniform over the L levels, or has all its mass on one extra state, "absorbed".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.rng import Draws, Stream
from nelbo.theory.discrete import require_law


class MarkovChain:
    """A chain that moves from state i to state j with probability P_ij.

    Args:
        P: transition matrix, shape (n, n), float64; row i is the distribution of the state after i.

    Raises:
        ValueError: P is not square, or a row is not a distribution.
    """

    def __init__(self, P: Tensor) -> None:
        if P.ndim != 2 or P.shape[0] != P.shape[1] or not len(P):
            raise ValueError(f"a transition matrix must be square, but its shape is {tuple(P.shape)}")
        self.P = P.to(torch.float64)
        require_law(self.P)

    def law(self, start: Tensor, n: int) -> Tensor:
        """The distribution of X_n: start · Pⁿ.

        Args:
            start: distribution of X_0, shape (…, states), float64.
            n: number of steps, n ≥ 0.

        Returns:
            Probabilities, shape (…, states), float64.

        Raises:
            ValueError: start is not a distribution over the states, or n < 0.
        """
        if n < 0:
            raise ValueError(f"{n} is not a number of steps; it must be at least 0")
        if start.shape[-1] != len(self.P):
            raise ValueError(f"start has {start.shape[-1]} states, but the chain has {len(self.P)}")
        require_law(start)
        return start @ torch.linalg.matrix_power(self.P, n)

    def closed_classes(self) -> list[list[int]]:
        """The closed communicating classes: sets of states that reach each other and no other state.

        A transition is possible if P_ij > 0, however small. States in no closed class are transient.
        """
        reach = (self.P > 0) | torch.eye(len(self.P), dtype=torch.bool)
        for _ in range(len(self.P).bit_length()):
            reach = reach.double() @ reach.double() > 0
        mutual = reach & reach.T
        closed = (reach == mutual).all(1)
        return [row.nonzero()[:, 0].tolist() for i, row in enumerate(mutual) if closed[i] and not row[:i].any()]

    def stationary_laws(self) -> Tensor:
        """One stationary distribution for each closed class; every stationary distribution is a mixture of them.

        Returns:
            Probabilities in the order of :meth:`closed_classes`, shape (classes, n).
        """
        classes = self.closed_classes()
        laws = self.P.new_zeros(len(classes), len(self.P))
        for law, states in zip(laws, classes, strict=True):
            law[states] = _stationary(self.P[states][:, states])
        return laws

    def stationary(self) -> Tensor:
        """The distribution π with π P = π, shape (n,). Periodic chains have one too, but need not converge to it.

        Raises:
            ValueError: the chain has several closed classes, hence several π; the message lists the classes.
        """
        classes = self.closed_classes()
        if len(classes) > 1:
            raise ValueError(
                f"the stationary law is not unique: each of the closed classes {classes} has one (see stationary_laws)"
            )
        return self.stationary_laws()[0]

    def simulate(self, start: Tensor, n: int, draws: Draws) -> Tensor:
        """Paths X_0 … X_n. A path depends only on its example's index; a longer path begins with the shorter one.

        Args:
            start: states X_0, integers, shape (B,).
            n: number of steps, n ≥ 0.
            draws: the examples' random numbers (``Stream.SAMPLE``).

        Returns:
            States, integers, shape (B, n + 1).

        Raises:
            ValueError: an entry of ``start`` is not a state.
        """
        _require_states(start, len(self.P))
        u = draws.uniform(Stream.SAMPLE, (n,))
        path = [start]
        for k in range(n):
            path.append(draw(self.P[path[-1]], u[:, k]))
        return torch.stack(path, 1)


def _stationary(P: Tensor) -> Tensor:
    """π P = π of an irreducible chain, to full relative precision (Grassmann, Taksar & Heyman 1985).

    It removes the states one by one and keeps the chain on the remaining states, without any subtraction.
    """
    P = P.clone()
    for k in range(len(P) - 1, 0, -1):
        P[:k, k] /= P[k, :k].sum()
        P[:k, :k] += P[:k, k, None] * P[k, :k]
    pi = torch.ones_like(P[0])
    for k in range(1, len(P)):
        pi[k] = pi[:k] @ P[:k, k]
    return pi / pi.sum()


def draw(law: Tensor, u: Tensor) -> Tensor:
    """Sample states by inversion of the distribution function: the k with F(k−1) ≤ u < F(k).

    Args:
        law: probabilities, shape (…, n), float64.
        u: uniform in [0, 1), of a shape that broadcasts with the leading dimensions of ``law``.

    Returns:
        Integers 0 … n−1, never a state of probability 0.
    """
    total = law.cumsum(-1)
    return (total / total[..., -1:] <= u[..., None]).sum(-1)


class NoisingChain:
    """A noising chain: q(x_t | x_{t−1}) = α_t [x_t = x_{t−1}] + β_t π(x_t)  (Austin et al. 2021, appendix A.2).

    In every method x holds integers (B, …), t and s integers (B,), 0 ≤ s < t ≤ T; a result has shape (B, …, n).

    Args:
        beta: β_1 … β_T, shape (T,), each in (0, 1); the last may be 1.
        pi: π, the distribution of the replaced states, shape (n,), float64.

    Raises:
        ValueError: a β_t is outside its range, or π is not a distribution.
    """

    def __init__(self, beta: Tensor, pi: Tensor) -> None:
        beta = beta.to(torch.float64)
        if not (beta.numel() and bool(((beta > 0) & (beta <= 1)).all() and (beta[:-1] < 1).all())):
            raise ValueError("every β_t must be above 0 and below 1; only the last may be 1")
        require_law(pi)
        self.beta = torch.cat([beta.new_zeros(1), beta])
        self.log_alpha_bar = torch.log1p(-self.beta).cumsum(0)
        self.pi = pi

    @property
    def T(self) -> int:  # noqa: N802
        """The number of steps."""
        return self.beta.numel() - 1

    def matrix(self, t: int) -> Tensor:
        """Q_t = α_t I + β_t 1 πᵀ, the transition matrix of step t, shape (n, n)."""
        states = torch.arange(len(self.pi))
        return self.step(states, torch.full_like(states, t))

    def step(self, x_prev: Tensor, t: Tensor) -> Tensor:
        """The distribution q(x_t | x_{t−1}) of x_t."""
        return self._from(x_prev, t, t - 1)

    def jump(self, x_0: Tensor, t: Tensor) -> Tensor:
        """The distribution q(x_t | x_0) = ᾱ_t [x_t = x_0] + (1 − ᾱ_t) π(x_t) of x_t  [D3PM (3)]; t may be 0."""
        return self._from(x_0, t, torch.zeros_like(t))

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        """The distribution q(x_s | x_t, x_0) of x_s, with s = t − 1 unless given  [D3PM (3)].

        With α = ᾱ_t/ᾱ_s and β = 1 − α, q(x_s | x_t, x_0) is

            (α [x_s = x_t] + β π(x_t)) (ᾱ_s [x_s = x_0] + (1 − ᾱ_s) π(x_s)) / (ᾱ_t [x_t = x_0] + (1 − ᾱ_t) π(x_t)).

        Raises:
            ValueError: q(x_t | x_0) = 0.
        """
        s = t - 1 if s is None else s
        _require_states(x_t, len(self.pi))
        evidence = self.jump(x_0, t).gather(-1, x_t[..., None])
        if not bool((evidence > 0).all()):
            raise ValueError("q(x_t | x_0) is 0: x_0 cannot become this x_t")
        kept, forgotten = self._rates(t, s, x_t.ndim)
        likelihood = kept * F.one_hot(x_t, len(self.pi)) + forgotten * self.pi[x_t][..., None]
        return likelihood * self.jump(x_0, s) / evidence

    def _from(self, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_t | x_s) = α [x_t = x_s] + β π(x_t) with α = ᾱ_t/ᾱ_s."""
        _require_states(x_s, len(self.pi))
        kept, forgotten = self._rates(t, s, x_s.ndim)
        return kept * F.one_hot(x_s, len(self.pi)) + forgotten * self.pi

    def _rates(self, t: Tensor, s: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """α = ᾱ_t/ᾱ_s and β = 1 − α, of shape (B, 1, …, 1) to multiply distributions of an x with ndim dimensions."""
        if not bool(((s >= 0) & ((s < t) | (t == 0)) & (t <= self.T)).all()):
            raise ValueError(f"steps must satisfy 0 ≤ s < t ≤ {self.T}")
        log_alpha = (self.log_alpha_bar[t] - self.log_alpha_bar[s]).reshape(-1, *[1] * ndim)
        return log_alpha.exp(), -torch.expm1(log_alpha)


def uniform_noise(beta: Tensor, L: int) -> NoisingChain:
    """A replaced level becomes any of the L levels: π = 1/L (Austin et al. 2021, appendix A.2.1).

    Args:
        beta: β_1 … β_T, shape (T,).
        L: the number of levels.
    """
    return NoisingChain(beta, torch.full((L,), 1.0 / L, dtype=torch.float64))


def absorbing_noise(beta: Tensor, L: int) -> NoisingChain:
    """A replaced level becomes "absorbed", state L after the levels 0 … L−1, and stays there (appendix A.2.2).

    Args:
        beta: β_1 … β_T, shape (T,).
        L: the number of levels; the chain has L + 1 states.
    """
    return NoisingChain(beta, F.one_hot(torch.tensor(L), L + 1).double())


def even_beta(T: int) -> Tensor:
    """β_t = 1/(T − t + 1), so that ᾱ_t = 1 − t/T decreases linearly (Austin et al. 2021, section 3.1).

    Args:
        T: the number of steps.

    Returns:
        β_1 … β_T, float64, shape (T,); β_T = 1.
    """
    return 1.0 / torch.arange(T, 0, -1, dtype=torch.float64)


def _require_states(x: Tensor, n: int) -> None:
    if not bool(((x >= 0) & (x < n)).all()):
        raise ValueError(f"states must be integers 0 … {n - 1}")
