# %% [markdown]
# # 10. The posterior of one step back
#
# To make an image from noise, we need the reverse step: the distribution of $x_{t-1}$ if $x_t$ is known.
# That distribution depends on all data, and nobody knows it.
# But if the image $x_0$ is known as well, the answer is a formula.
# Bayes' rule multiplies two Gaussians in $x_{t-1}$: where the image leads to, and where $x_t$ may have come from.
# The product of two Gaussian densities is a Gaussian density, up to a constant.
# Its precision is the sum of both precisions, and its mean is the average of both means, weighted by the precisions.
# The mean is called $\tilde\mu$ and the variance $\tilde\beta$.
# A diffusion model takes this formula and puts its own estimate $\hat x_0$ of the image in place of $x_0$.
# The KL divergence between both is then a squared distance between $x_0$ and $\hat x_0$, times a known weight.
# So a denoiser is all that has to be learned.

# %% [markdown]
# ## The equations
#
# $$q(x_{t-1}\mid x_t, x_0) = \mathcal N(\tilde\mu_t, \tilde\beta_t I), \qquad
# \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0
# + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t, \qquad
# \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t \qquad\text{Ho et al. 2020 (6), (7)}$$
#
# **Where it comes from.** By Bayes' rule,
# $q(x_{t-1}\mid x_t,x_0) \propto q(x_t\mid x_{t-1})\;q(x_{t-1}\mid x_0)$. As functions of $x_{t-1}$, the first factor has the
# precision $\alpha_t/\beta_t$ and the second $1/(1-\bar\alpha_{t-1})$. Their sum is
# $\frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})} = 1/\tilde\beta_t$.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.diffusion.denoiser import denoiser_of
from nelbo.diffusion.process import marginal, posterior, posterior_var, transition
from nelbo.diffusion.samplers import Ancestral, trajectory
from nelbo.diffusion.schedules import Cosine, LinearBeta, betas_of, chain_of
from nelbo.diffusion.variances import PosteriorVariance

# %% [markdown]
# ## Bayes' rule, drawn
#
# A chain of ten steps, so that each step is large enough to be seen. The black line is the product of both factors on a grid,
# normalised by its sum; the dots are `nelbo.diffusion.process.posterior`.
# At $t = 1$ the image itself is one step back, and there is nothing to estimate.

# %%
coarse = chain_of(Cosine().grid(10))


def draw_posterior(t: int, x_0: float, x_t: float) -> None:
    """The two factors of Bayes' rule, their product, and the formula."""
    image, here = (torch.full((1, 1), value, dtype=torch.float64) for value in (x_0, x_t))
    before, now = coarse[t - 1 : t], coarse[t : t + 1]
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    prior = marginal(image, before).log_prob(grid)[0]
    likelihood = transition(grid[:, None], before.expand(601), now.expand(601)).log_prob(here)[:, 0]
    product = (prior + likelihood).softmax(0) / (grid[1] - grid[0])
    exact = posterior(image, here, before, now)

    _, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    ax.fill_between(grid, prior.exp(), alpha=0.3, label=f"$q(x_{{{t - 1}}} | x_0 = {x_0:.1f})$")
    ax.fill_between(grid, likelihood.exp(), alpha=0.3, label=f"$q(x_{{{t}}} = {x_t:.1f} | x_{{{t - 1}}})$")
    ax.plot(grid, product, "k", label="product, normalised")
    ax.plot(grid[::12], exact.log_prob(grid[::12])[0].exp(), "C3o", markersize=4, label="N(μ̃, β̃)")
    ax.set(
        xlabel=f"$x_{{{t - 1}}}$", ylabel="density", title=f"μ̃ = {exact.mean.item():.3f}, β̃ = {exact.var.item():.4f}"
    )
    ax.legend(fontsize=8)


# Change this and run again: the step t, the image x_0, and the noisy x_t.
turn(draw_posterior, t=(5, 2, 10), x_0=(0.8, -1.0, 1.0), x_t=(-0.6, -2.0, 2.0))

# %% [markdown]
# ## Two candidates for the variance of the reverse step
#
# $\tilde\beta_t$ is the right variance if $x_0$ is known exactly; $\beta_t$ is the right one if the data are $\mathcal N(0, I)$.
# Real data are between them. With $T = 1000$ both are almost equal, except in the first few steps, where most of the bits are.

# %%
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for name, schedule in (("linear", LinearBeta()), ("cosine", Cosine())):
    gammas = chain_of(schedule.grid(1000))
    ax.semilogx(range(2, 1001), posterior_var(gammas[1:-1], gammas[2:]) / betas_of(gammas[1:])[1:], label=name)
ax.set(xlabel="t", ylabel="β̃ / β")
_ = ax.legend()

# %% [markdown]
# ## Walking back
#
# If the network knew the image, ancestral sampling would walk from noise to exactly this image. Here is the walk for data that have
# only two values, −0.8 and 0.5, whose best denoiser is their weighted mean given $x_t$. No network is needed: `posterior` does
# all the work. Compare the picture with the forward paths of chapter 9.


# %%
VALUES = torch.tensor([-0.8, 0.5], dtype=torch.float64)


def expected_value(z: Tensor, gamma: Tensor) -> Tensor:
    """E[x_0 | z] for data that are −0.8 or 0.5 with equal probability."""
    candidates = torch.stack([marginal(v.expand(z.shape), gamma).log_prob(z) for v in VALUES])
    return (candidates.softmax(0) * VALUES[:, None, None]).sum(0)


fine = chain_of(LinearBeta().grid(1000))
noise = torch.Generator().manual_seed(0)
z = torch.randn(40, 1, generator=noise, dtype=torch.float64)
states = trajectory(
    Ancestral(PosteriorVariance()),
    denoiser_of(expected_value),
    z,
    fine.flip(0),
    lambda step: torch.randn(z.shape, generator=noise, dtype=torch.float64),
)
path = torch.cat([z, *(state.z for state in states)], 1)
_, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
ax.plot(range(1000, -1, -1), path.T, color="C0", linewidth=0.5)
ax.set(xlabel="t (from noise, left, to data, right)", ylabel="$x_t$", xlim=(1000, 0))
ends = path[:, -1]
print(
    f"{int((ends > 0).sum())} of 40 walks end at 0.5; the largest distance from a value of the data is "
    f"{float((ends[:, None] - VALUES).abs().min(1).values.max()):.1e}"
)

# %% [markdown]
# ## Exercise
#
# For DDPM's linear table ($\beta_1 = 10^{-4}$ to $\beta_{1000} = 0.02$, $T = 1000$), compute $\tilde\beta_2$ to at least four digits.

# %% tags=["exercise"]
beta_tilde_2 = None

# %% tags=["check"]
check(
    beta_tilde_2,
    posterior_var(fine[1], fine[2]),
    "β̃_2 = β_2 (1 − ᾱ_1)/(1 − ᾱ_2), with ᾱ_1 = 1 − β_1 and ᾱ_2 = (1 − β_1)(1 − β_2). The table has 999 equal gaps.",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.diffusion.variances` has the reverse variances $\beta_t$, $\tilde\beta_t$ and a learned one between them, each with its
# term of the bound. Chapter 11 shows what a network can predict instead of $x_0$.
