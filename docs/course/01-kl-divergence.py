# %% [markdown]
# # 1. The KL divergence
#
# A probability distribution is also a code.
# A code for the distribution $p$ gives the outcome $x$ a word of length $-\ln p(x)$ nats, so frequent outcomes are short
# (a nat is $1/\ln 2 = 1.44$ bits).
# If $x$ really comes from $p$, the expected length is the entropy of $p$, and no code is shorter.
# If $x$ comes from another distribution $q$, the code for $p$ is too long on average.
# The Kullback–Leibler divergence $\mathrm{KL}(q\,\|\,p)$ is the expected number of extra nats.
# It is never negative, and it is zero only if $q = p$.
# It is not a distance: the two directions give two different numbers.
# It is infinite if $q$ produces an outcome that $p$ excludes.
# It can be estimated from samples of $q$ alone, because it is an expectation under $q$.
# Every bound of this course is a sum of such divergences, and every model is trained to make them small.

# %% [markdown]
# ## The equations
#
# $$\mathrm{KL}(q\,\|\,p) = \sum_k q_k \ln\frac{q_k}{p_k} = \mathbb{E}_{x\sim q}\left[\ln q(x) - \ln p(x)\right]
# \qquad\text{Kullback and Leibler 1951}$$
#
# For two normal distributions there is a closed form, a formula without a sum or an integral. The rest of the course uses it
# all the time:
#
# $$\mathrm{KL}\big(\mathcal N(\mu_q,\sigma_q^2)\,\|\,\mathcal N(\mu_p,\sigma_p^2)\big)
# = \tfrac12\left[\frac{(\mu_q-\mu_p)^2}{\sigma_p^2} + \delta - \ln(1+\delta)\right],
# \qquad \delta = \frac{\sigma_q^2}{\sigma_p^2} - 1$$
#
# The divergence is never negative because $\ln u \le u - 1$:
# $-\mathrm{KL}(q\,\|\,p) = \sum_k q_k \ln (p_k/q_k) \le \sum_k q_k (p_k/q_k - 1) \le 0$ (Cover & Thomas 2006, theorem 2.6.3).

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Normal

from nelbo.course import check, turn
from nelbo.theory.discrete import entropy_discrete, kl_discrete
from nelbo.theory.monte_carlo import kl_monte_carlo
from nelbo.theory.normal import kl_normal


def coin(heads: float) -> Tensor:
    """The distribution of one throw: (heads, tails)."""
    return torch.tensor([heads, 1 - heads], dtype=torch.float64)


q, p = coin(0.5), coin(0.9)
print(f"entropy of the fair coin        {entropy_discrete(q):.4f} nats")
print(f"extra nats with p's code        {kl_discrete(q, p):.4f}")
print(f"the other direction             {kl_discrete(p, q):.4f}")

# %% [markdown]
# The picture below shows both directions for all coins $p$ at once.
# Both are zero at $p = q$ and have the same curvature there.
# Far away they differ: $\mathrm{KL}(q\,\|\,p)$ goes to infinity where $p$ excludes an outcome, and $\mathrm{KL}(p\,\|\,q)$
# stays finite.
# This is the reason for a well-known difference between models: minimising $\mathrm{KL}(\text{data}\,\|\,\text{model})$
# makes the model cover all data, while minimising $\mathrm{KL}(\text{model}\,\|\,\text{data})$ lets it ignore some of them.


# %%
def draw_coins(heads: float) -> None:
    """Both divergences between the coin q and every coin p."""
    grid = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
    laws = torch.stack([grid, 1 - grid], 1)
    here = coin(heads).expand(len(grid), 2)
    _, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    ax.plot(grid, kl_discrete(here, laws), label="KL(q‖p): p is the code")
    ax.plot(grid, kl_discrete(laws, here), label="KL(p‖q): q is the code")
    ax.axvline(heads, color="grey", linestyle=":", label=f"q = {heads:.2f}")
    ax.set(xlabel="probability of heads under p", ylabel="nats per throw", ylim=(0, 2))
    ax.legend()


# Change the first number and run again: the coin q. Each control is (value, least, largest).
turn(draw_coins, heads=(0.5, 0.02, 0.98))

# %% [markdown]
# ## Two Gaussians, and an estimate from samples
#
# For most models in this course there is no closed form.
# The divergence is then the mean of $\ln q(x) - \ln p(x)$ over samples $x \sim q$, and the standard error of the mean is the
# standard deviation of these values divided by $\sqrt n$.
# The band in the lower picture is the estimate with two standard errors; the line is the closed form.


# %%
def draw_gaussians(shift: float, width: float) -> None:
    """Densities of q and p, the contribution of each x, and estimates from n samples of q."""
    q, p = Normal(0.0, width), Normal(shift, 1.0)
    exact = kl_normal(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, width**2, shift, 1.0)))
    x = torch.linspace(-8, 8, 800)  # all of q at the largest width
    _, (above, below) = plt.subplots(2, 1, figsize=(6, 6.4), layout="constrained")
    above.plot(x, q.log_prob(x).exp(), label="q")
    above.plot(x, p.log_prob(x).exp(), label="p")
    part = q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))
    above.fill_between(x, part, alpha=0.3, color="C2", label="q ln(q/p), area KL")
    above.set(xlabel="x")
    above.legend()

    sample = width * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    counts = torch.logspace(1, 4, 40).long()
    found = [kl_monte_carlo(q.log_prob(sample[:n]), p.log_prob(sample[:n])) for n in counts]
    mean, error = (torch.stack(part) for part in zip(*found, strict=True))
    below.axhline(float(exact), color="black", label="closed form")
    below.plot(counts, mean, color="C2")
    below.fill_between(counts, mean - 2 * error, mean + 2 * error, alpha=0.3, color="C2", label="estimate ± 2 s.e.")
    below.set(xscale="log", xlabel="samples", ylabel="KL(q‖p), nats")
    below.legend()


# Change this and run again: the distance of the means, and the width of q.
turn(draw_gaussians, shift=(1.0, -2.0, 2.0), width=(0.7, 0.2, 2.0))

# %% [markdown]
# ## Exercise
#
# You throw a coin $q$ that shows heads with probability 0.6, and your code is made for a coin $p$ that shows heads with
# probability 0.7. How many extra nats per throw do you pay? And how many if the two coins change their roles?
# Use pen and paper, or write your own sum: please do not call `kl_discrete`. Give at least four digits.

# %% tags=["exercise"]
forward = None  # KL(q‖p)
backward = None  # KL(p‖q)

# %% tags=["check"]
q, p = coin(0.6), coin(0.7)
check(
    (forward, backward),
    (kl_discrete(q, p), kl_discrete(p, q)),
    "The expectation is over the distribution that throws: q_k is the weight in KL(q‖p). Use natural logarithms.",
    rtol=3e-4,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.theory.discrete`, `normal` and `densities` hold the divergences, `monte_carlo` the estimates.
# The next chapter uses the KL divergence to approximate a distribution that is known only up to a constant.
