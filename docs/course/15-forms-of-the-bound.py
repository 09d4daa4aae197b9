# %% [markdown]
# # 15. The bound in its forms, and a wrong formula
#
# The bound of a diffusion model is one number, and it can be written in several ways.
# The trajectory form is the definition: $\ln q - \ln p_\theta$ of a whole walk from the image to noise.
# The denoising form rearranges it: each term compares the model's step back with the posterior of chapter 10.
# The consistency form compares, at every $t$, the step forward with the step back.
# All three have the same expectation, so a difference between them is an error in the code: a strong test.
# They differ in variance and in cost: a trajectory needs all $T$ evaluations of the network, the others a few random $t$.
# The consistency form invites a mistake that is found in lecture notes and papers.
# It looks like a sum of KL divergences between $q(x_t\mid x_{t-1})$ and $p_\theta(x_t\mid x_{t+1})$, and it is not.
# The reason is that $x_{t+1}$ was made from $x_t$: if $x_{t+1}$ is given, $x_t$ is no longer distributed as $q(x_t\mid x_{t-1})$.
# The mistake is not small: it costs about one nat for each dimension and step.

# %% [markdown]
# ## The equations
#
# Trajectory (Ho et al. 2020 (3)): $\quad\mathbb{E}_q\big[\ln q(x_{1:T}\mid x_0) - \ln p_\theta(x_{0:T})\big]$
#
# Denoising (Ho et al. 2020 (5)):
# $$\mathbb{E}_q\big[-\ln p_\theta(x_0\mid x_1)\big]
# + \sum_{t=2}^T\mathbb{E}_q\,\mathrm{KL}\big(q(x_{t-1}\mid x_t, x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\big)
# + \mathrm{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)$$
#
# Consistency (the same sum, grouped by $x_t$):
# $$\mathbb{E}_q\big[-\ln p_\theta(x_0\mid x_1)\big]
# + \sum_{t=1}^{T-1}\mathbb{E}_q\big[\ln q(x_t\mid x_{t-1}) - \ln p_\theta(x_t\mid x_{t+1})\big]
# + \mathbb{E}_q\,\mathrm{KL}\big(q(x_T\mid x_{T-1})\,\|\,p(x_T)\big)$$
#
# **The wrong formula** puts $\mathbb{E}_q\,\mathrm{KL}\big(q(x_t\mid x_{t-1})\,\|\,p_\theta(x_t\mid x_{t+1})\big)$ into the sum.
# The expectation over $x_t$ must be given *both* neighbours. With the bridge $q(x_t\mid x_{t-1}, x_{t+1})$ the summand is
# $\mathrm{KL}\big(q(x_t\mid x_{t-1},x_{t+1})\,\|\,p_\theta(x_t\mid x_{t+1})\big) - \tfrac D2\ln\big(1 + \alpha_{t+1}\beta_t/\beta_{t+1}\big)$.

# %%
from functools import cache

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.diffusion.consistency import (
    Three,
    consistency_log_ratio,
    consistency_prior_term,
    consistency_term,
    neighbours,
)
from nelbo.diffusion.denoiser import Denoised, from_x_0
from nelbo.diffusion.process import diffuse, prior_term, transition
from nelbo.diffusion.schedules import LinearBeta, betas_of, chain_of
from nelbo.diffusion.trajectory import trajectory_terms
from nelbo.diffusion.variances import ForwardVariance
from nelbo.theory.exact import GaussianData
from nelbo.theory.normal import Gaussian, kl_normal

# %% [markdown]
# ## Every form, from its own equation
#
# The data are $\mathcal N(0,1)$, so the best denoiser is known and the reverse variance is $\beta_t$ (chapter 10).
# Then the bound is tight: its value is $-\ln p(x_0)$. Each function below returns one estimate per row.

# %%
data, variance = GaussianData(torch.zeros(1), torch.eye(1)), ForwardVariance()
Terms = dict[str, Tensor]


class Chain:
    """T steps of DDPM's linear schedule, with n independent estimates for the image x_0."""

    def __init__(self, x_0: float, T: int, n: int, seed: int = 0) -> None:
        self.gammas, self.T = chain_of(LinearBeta().grid(T)), T
        self.x_0 = torch.full((n, 1), x_0, dtype=torch.float64)
        self.source = torch.Generator().manual_seed(seed)

    def noise(self) -> Tensor:
        return torch.randn(self.x_0.shape, generator=self.source, dtype=torch.float64)

    def gamma(self, t: int) -> Tensor:
        return self.gammas[t].expand(len(self.x_0))

    def denoised(self, x_t: Tensor, gamma: Tensor) -> Denoised:
        return from_x_0(data.denoise(x_t, gamma), x_t, gamma)

    def reverse(self, x_t: Tensor, gamma_s: Tensor, gamma_t: Tensor) -> Gaussian:
        """p_θ(x_s|x_t), with the exact denoiser."""
        return variance.step(self.denoised(x_t, gamma_t), x_t, gamma_s, gamma_t)

    def decode(self, x_1: Tensor) -> Tensor:
        """−ln p_θ(x_0|x_1)."""
        mean = self.denoised(x_1, self.gamma(1)).x_0
        return -Gaussian(mean, betas_of(self.gammas[1:2])).log_prob(self.x_0)[:, 0]


def denoising(chain: Chain) -> Terms:
    reconstruction = chain.decode(diffuse(chain.x_0, chain.gamma(1), chain.noise()))
    diffusion = torch.zeros_like(reconstruction)
    for t in range(2, chain.T + 1):
        eps, gamma = chain.noise(), chain.gamma(t)
        denoised = chain.denoised(diffuse(chain.x_0, gamma, eps), gamma)
        diffusion += variance.diffusion_term(denoised, eps, chain.gamma(t - 1), gamma)
    return {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior_term(chain.x_0, chain.gammas[-1])}


def by_neighbours(chain: Chain, form: str) -> Terms:
    """The consistency form with x_t integrated out or sampled, and the wrong formula."""
    reconstruction = chain.decode(diffuse(chain.x_0, chain.gamma(1), chain.noise()))
    diffusion = torch.zeros_like(reconstruction)
    for t in range(1, chain.T):
        gamma = Three(chain.gamma(t - 1), chain.gamma(t), chain.gamma(t + 1))
        before, here, after = neighbours(chain.x_0, gamma, (chain.noise(), chain.noise(), chain.noise()))
        p = chain.reverse(after, gamma.here, gamma.next)
        if form == "wrong":
            q = transition(before, gamma.prev, gamma.here)
            diffusion += kl_normal(q.mean, q.var, p.mean, p.var)[:, 0]
        elif form == "consistency":
            diffusion += consistency_term(p, before, after, gamma)
        else:
            diffusion += consistency_log_ratio(p, before, here, gamma)
    prior = consistency_prior_term(chain.gammas, chain.x_0)
    return {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}


def whole_trajectory(chain: Chain) -> Terms:
    noise = (chain.noise() for _ in range(chain.T))
    return trajectory_terms(chain.gammas, chain.reverse, chain.decode, chain.x_0, noise)


FORMS = ["denoising", "consistency", "consistency, sampled", "trajectory", "wrong"]


@cache
def terms_of(form: str, x_0: float, T: int, n: int) -> Terms:
    """The terms of n independent estimates of this form, in nats."""
    chain = Chain(x_0, T, n)
    if form == "denoising":
        return denoising(chain)
    return whole_trajectory(chain) if form == "trajectory" else by_neighbours(chain, form)


# %% [markdown]
# Above: how the form divides the sum into three terms (in the sampled consistency form, $x_t$ is drawn and not integrated out).
# Below: the totals of single estimates, beside the truth.
# For the exact reverse process a trajectory has no variance at all (chapter 7).


# %%
def draw_forms(form: str, T: int) -> None:
    """The terms of every form, and the estimates of one."""
    x_0, n = -0.4, 500
    truth = -float(data.log_prob(torch.tensor([[x_0]])))
    _, (above, below) = plt.subplots(2, 1, figsize=(6, 7), layout="constrained")
    for row, name in enumerate(FORMS):
        terms, start = terms_of(name, x_0, T, n), {True: 0.0, False: 0.0}
        for colour, (term, values) in zip(("C0", "C1", "C2"), terms.items(), strict=True):
            mean = float(values.mean())
            above.barh(row, mean, left=start[mean > 0], color=colour, label=term if row == 0 else None)
            start[mean > 0] += mean
        total = sum(terms.values())
        above.text(
            max(start[True], 0) + 0.3, row, f"{total.mean():.3f} ± {total.std() / n**0.5:.3f}", va="center", fontsize=8
        )
        if name == form:
            low, high = min(float(total.min()), truth - 1), max(float(total.max()), truth + 1)
            below.hist(total, bins=40, range=(low, high), color="C4")
            below.axvline(float(total.mean()), color="C3", linestyle="--", label=f"mean {total.mean():.4f}")
    above.axvline(truth, color="black", linewidth=0.8)
    above.set(yticks=range(len(FORMS)), yticklabels=FORMS, xlabel="nats", title=f"$T$ = {T}")
    above.set_xlim(right=above.get_xlim()[1] * 1.5)
    above.legend(fontsize=8, loc="lower right")
    below.axvline(truth, color="black", label=f"$-\\ln p(x_0)$ = {truth:.4f}")
    below.set(xlabel="nats of one estimate", title=form)
    below.legend()


# Change this and run again: the form of the lower picture, and the number of steps.
turn(draw_forms, form=FORMS, T=(40, 25, 200))

# %% [markdown]
# ## The wrong formula grows with T
#
# The right forms do not depend on $T$ here, since the reverse process is exact. The wrong one adds about one nat for each step.

# %%
counts = [25, 50, 100, 200, 400]
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for form in ("consistency", "wrong"):
    totals = [float(sum(terms_of(form, -0.4, T, 2000).values()).mean()) for T in counts]
    ax.loglog(counts, totals, "o-", label=form)
ax.loglog(counts, counts, ":", color="grey", label="T")
ax.set(xlabel="T", ylabel="nats")
_ = ax.legend()

# %% [markdown]
# ## Exercise
#
# Let $x_0 = 0.7$ and $T = 1000$, with the exact denoiser. How many nats is the bound, in any right form? And how many does the
# wrong formula give? The first is a formula; for the second, the mean of 1,000 estimates with `terms_of` is exact enough.

# %% tags=["exercise"]
right_bound = None
wrong_formula = None

# %% tags=["check"]
check(
    right_bound,
    -data.log_prob(torch.tensor([[0.7]]))[0],
    "The model is exact, so the bound is tight: it is −ln p(x_0) of N(0, 1).",
)


def exact_wrong_formula(x_0: float, T: int) -> Tensor:
    """Its expectation, from the second moments M_t = E[x_t² | x_0] of the chain."""
    gammas = chain_of(LinearBeta().grid(T))
    beta, alpha_bar = torch.cat([torch.zeros(1), betas_of(gammas[1:])]), torch.sigmoid(-gammas)
    moment, alpha = alpha_bar * x_0**2 + 1 - alpha_bar, 1 - beta
    here, after = slice(1, T), slice(2, T + 1)
    distance = alpha[here] * moment[: T - 1] * (1 - 2 * alpha[after]) + alpha[after] * moment[after]
    ratio = beta[here] / beta[after]
    image = torch.tensor([[x_0]], dtype=torch.float64)
    ends = data.reconstruction(gammas, image)[0] + consistency_prior_term(gammas, image)[0]
    return ends + 0.5 * (distance / beta[after] + ratio - 1 - ratio.log()).sum()


check(
    wrong_formula,
    exact_wrong_formula(0.7, 1000),
    'sum(terms_of("wrong", 0.7, 1000, 1000).values()).mean() is the total, with all three terms.',
    rtol=5e-3,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo score RUN --form NAME` computes each form of a trained model; docs/forms.md compares them, with two more: the
# importance-weighted bound and the probability flow.
