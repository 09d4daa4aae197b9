# %% [markdown]
# # 6. The Markov chain
#
# A Markov chain moves from state to state, and the next state depends only on the present one.
# A matrix $P$ describes it: $P_{ij}$ is the probability to move from $i$ to $j$, so every row sums to one.
# If the distribution of the present state is a row vector, the distribution after one step is the vector times $P$.
# After $n$ steps it is the vector times $P^n$.
# For most chains this converges to one distribution $\pi$, whatever the start: the chain forgets where it came from.
# This $\pi$ is stationary: one more step does not change it.
# Forgetting is exactly what the forward process of a diffusion model does: it turns every image into the same noise.
# How fast a chain forgets is decided by the second largest eigenvalue of $P$ in absolute value.
# The reverse of a Markov chain is a Markov chain too, but its moves depend on the distribution of the start.
# Learning this reverse chain is what a diffusion model is trained for.

# %% [markdown]
# ## The equations
#
# $$P[X_{n+1} = j \mid X_n = i] = P_{ij}, \qquad \text{law}(X_n) = \text{law}(X_0)\,P^n, \qquad \pi P = \pi
# \qquad\text{Norris 1997, theorems 1.1.3 and 1.8.3}$$
#
# A chain that destroys pixel levels (Austin et al. 2021 (3)): with probability $\beta_t$ a level is replaced by a draw from
# $\pi$. All steps together keep it with probability $\bar\alpha_t = \prod_{i\le t}(1 - \beta_i)$:
#
# $$q(x_t\mid x_0) = \bar\alpha_t\,[x_t = x_0] + (1 - \bar\alpha_t)\,\pi(x_t)$$

# %%
import matplotlib.pyplot as plt
import torch

from nelbo.course import check, play, turn
from nelbo.data import load
from nelbo.report.pictures import grid
from nelbo.rng import Draws, Stream
from nelbo.theory.discrete import kl_discrete
from nelbo.theory.markov import MarkovChain, draw, even_beta, uniform_noise

WEATHER = ["sun", "clouds", "rain"]
P = torch.tensor([[0.8, 0.15, 0.05], [0.3, 0.4, 0.3], [0.2, 0.4, 0.4]], dtype=torch.float64)
chain = MarkovChain(P)
for name, share in zip(WEATHER, chain.stationary().tolist(), strict=True):
    print(f"{name:8s} {share:.4f} of all days")


# %% [markdown]
# The left picture shows the distribution of the weather on day $n$, after a day of rain.
# The right picture shows how far it still is from $\pi$, in nats.
# The line falls by the factor $\lambda_2^2$ per step, since near zero the KL divergence is a squared distance.


# %%
def draw_chain(stay_sunny: float, start: str) -> None:
    """The law of every day, a simulated year, and the divergence from π."""
    matrix = P.clone()
    matrix[0] = stay_sunny * P.new_tensor([1, 0, 0]) + (1 - stay_sunny) * P.new_tensor([0, 0.75, 0.25])
    chain = MarkovChain(matrix)
    first = torch.eye(3, dtype=torch.float64)[WEATHER.index(start)]
    laws = torch.stack([chain.law(first, n) for n in range(26)])
    pi, eigenvalues = chain.stationary(), torch.linalg.eigvals(matrix).abs().sort(descending=True).values
    draws = Draws(seed=0, step=0, indices=[0], total=1, device=torch.device("cpu"))
    days = chain.simulate(torch.tensor([WEATHER.index(start)]), 365, draws)[0]

    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for state, (name, colour) in enumerate(zip(WEATHER, ("gold", "grey", "C0"), strict=True)):
        share = float((days == state).double().mean())
        left.plot(laws[:, state], color=colour, label=f"{name}: π = {pi[state]:.3f}, a simulated year {share:.3f}")
        left.axhline(float(pi[state]), color=colour, linestyle=":")
    left.set(xlabel="day n", ylabel="probability", ylim=(0, 1.02))
    left.legend(fontsize=8)
    right.semilogy(kl_discrete(laws, pi), "o-", color="C3", label="KL(law of Xₙ ‖ π)")
    right.set(xlabel="day n", ylabel="nats", ylim=(1e-16, 10), title=f"second eigenvalue {eigenvalues[1]:.3f}")
    right.legend()


# Change this and run again: the probability that a sunny day follows a sunny day, and the weather on day 0.
turn(draw_chain, stay_sunny=(0.8, 0.02, 0.99), start=["rain", "sun", "clouds"])

# %% [markdown]
# ## The chain that turns every digit into noise
#
# `uniform_noise` replaces a level by any of the 17 levels. With `even_beta`, $\bar\alpha_t$ falls from 1 to 0 in a straight line.
# Each pixel is a Markov chain of its own. After the last step, nothing of the digits is left: the last picture has the
# stationary distribution, and no knowledge of it helps to find the digit.

# %%
T, digits = 40, load("digits")
noising = uniform_noise(even_beta(T), digits.levels)
x = digits.split("test")[:24].long()
frames = [grid(x.to(torch.uint8), digits.levels, columns=8)]
for t in range(1, T + 1):
    step = torch.full((len(x),), t)
    u = Draws(seed=0, step=t, indices=range(len(x)), total=len(x), device=x.device).uniform(Stream.SAMPLE, digits.shape)
    x = draw(noising.step(x, step), u)  # one step of the chain, for every pixel
    frames.append(grid(x.to(torch.uint8), digits.levels, columns=8))
play(frames, seconds=5.0)

# %% [markdown]
# ## Exercise
#
# A chain of two states has the matrix $P = \begin{pmatrix} 0.9 & 0.1 \\ 0.5 & 0.5 \end{pmatrix}$.
# Give its stationary distribution as a pair $(\pi_1, \pi_2)$.

# %% tags=["exercise"]
pi = None

# %% tags=["check"]
two_states = MarkovChain(torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64))
check(
    pi,
    two_states.stationary(),
    "In balance as much probability moves from 1 to 2 as back: π₁ P₁₂ = π₂ P₂₁, and π₁ + π₂ = 1.",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.theory.markov` also has the posterior $q(x_{t-1}\mid x_t, x_0)$ of such chains, and chains whose levels are absorbed.
# Chapter 9 replaces the jump between levels by a small Gaussian step, and the same statement holds: many steps are one jump.
