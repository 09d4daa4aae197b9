# %% [markdown]
# # 7. The hierarchical VAE
#
# A hierarchical VAE has a whole chain of latent variables: $z_T \to \dots \to z_2 \to z_1 \to x$.
# Each arrow of the generative model is simple, usually a normal distribution whose mean a network computes.
# Many simple arrows together can make a complicated distribution.
# Inference goes the other way: from the image $x$ up to $z_1$, then to $z_2$, and so on to $z_T$.
# The ELBO is still $\ln p - \ln q$ in expectation, now of whole walks $z_1, \dots, z_T$.
# The logarithm of a product is a sum, so the bound has one term for each level.
# Bottom-up, the term of a level compares $q(z_t\mid z_{t-1})$ with $p(z_t\mid z_{t+1})$, and is not a divergence: it can be negative.
# If the generative arrows are the exact reverse of the inference, every single walk costs the same: $-\ln p(x)$.
# Then the estimate has no variance, and the bound no gap.
# A diffusion model is this hierarchy with a fixed inference, latents of the size of the image, and many levels.

# %% [markdown]
# ## The equations
#
# With $z_0 = x$ and $p(z_T\mid z_{T+1}) = p(z_T)$:
#
# $$-\ln p(x) \le \mathbb{E}_q\big[-\ln p(x\mid z_1)\big]
# + \sum_{t=1}^{T}\mathbb{E}_q\big[\ln q(z_t\mid z_{t-1}) - \ln p(z_t\mid z_{t+1})\big]
# \qquad\text{Rezende et al. 2014; Sønderby et al. 2016 (section 2)}$$
#
# **Why an exact walk has no variance.** If $p(z_{t-1}\mid z_t)$ is the reverse of $q$, then Bayes' rule holds for every arrow,
# $q(z_t\mid z_{t-1})\,p(z_{t-1}) = p(z_{t-1}\mid z_t)\,p(z_t)$. All factors of
# $\prod_t q(z_t\mid z_{t-1}) / \big(p(z_T)\prod_t p(z_{t-1}\mid z_t)\big)$ cancel but one, and $1/p(x)$ is left, at every walk.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.diffusion.process import transition
from nelbo.diffusion.schedules import Cosine, chain_of
from nelbo.theory.hierarchy import BottomUpPass, bottom_up_terms, infer_bottom_up
from nelbo.theory.normal import Gaussian

# %% [markdown]
# Our data are $x \sim \mathcal N(0, 1)$. Inference adds a little noise and shrinks a little, so that the variance stays 1:
# $q(z_t\mid z_{t-1}) = \mathcal N(\sqrt{1-\beta_t}\,z_{t-1}, \beta_t)$, `nelbo.diffusion.process.transition`.
# A stationary chain of this kind is the same in both directions, so we know the exact generative arrows:
# $p(z_{t-1}\mid z_t) = \mathcal N(\sqrt{1-\beta_t}\,z_t, \beta_t)$.
# `nelbo.theory.hierarchy.infer_bottom_up` draws walks and computes every term.
#
# The error multiplies the mean of each generative arrow by $1 - \text{error}$, so that it is no longer exact.


# %%
def walks(x: float, depth: int, error: float, count: int = 2000) -> BottomUpPass:
    """Walks from x through a hierarchy of this depth, with a generative model whose means are wrong by a factor."""
    gammas = chain_of(Cosine().grid(depth))[:, None].expand(-1, count)

    def up(z: Tensor, t: int) -> Gaussian:
        return transition(z, gammas[t - 1], gammas[t])

    def down(z: Tensor, t: int) -> Gaussian:
        exact = transition(z, gammas[t - 1], gammas[t])
        return Gaussian((1 - error) * exact.mean, exact.var)

    x_0 = torch.full((count, 1), x, dtype=torch.float64)
    noise = torch.randn(depth, count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last = Gaussian(torch.zeros_like(x_0), torch.ones_like(x_0))
    return infer_bottom_up(up, down, last, lambda z: -down(z, 1).log_prob(x_0)[:, 0], x_0, noise)


def draw_walks(depth: int, error: float) -> None:
    """The cost of each level, and of whole walks."""
    x = -1.2
    terms = bottom_up_terms(walks(x, depth, error))
    costs, truth = torch.stack(list(terms.values())), 0.5 * (x * x + math.log(2 * math.pi))
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.bar(range(depth + 1), costs.mean(1), color=["C1"] + ["C0"] * depth)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="level (0: reconstruction)", ylabel="mean nats", title="cost of each level")
    totals = costs.sum(0)
    ends = min(truth, float(totals.quantile(0.002))) - 3, max(truth, float(totals.quantile(0.998))) + 3
    right.hist(totals, bins=80, range=ends, color="C0")
    right.axvline(truth, color="black", label=f"−ln p(x) = {truth:.4f}")
    right.axvline(float(totals.mean()), color="C3", linestyle="--", label=f"mean of walks {totals.mean():.4f}")
    right.set(xlabel="nats of a whole walk", ylabel="walks", title=f"standard deviation {totals.std():.2g}")
    right.legend(fontsize=8)


# Change this and run again: the depth T, and the error of the generative model.
turn(draw_walks, depth=(12, 1, 100), error=(0.0, -0.3, 0.3))

# %% [markdown]
# Without an error, the histogram is a single bar: every walk costs the same.
# With an error of 0.15, walks differ, and their mean is above $-\ln p(x)$. The distance is the divergence between the two
# distributions over walks, $\mathrm{KL}(q(z_{1:T}\mid x)\,\|\,p(z_{1:T}\mid x))$, plus the change of $-\ln p(x)$ itself.

# %%
draw_walks(depth=12, error=0.15)

# %% [markdown]
# The price of an error grows with the depth, since each arrow pays for it. A deep hierarchy needs more exact arrows than a
# shallow one. (The reconstruction is negative in the first picture: it is the logarithm of a density, which can exceed 1.)

# %%
depths = [1, 2, 4, 8, 16, 32, 64]
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for error in (0.0, 0.05, 0.1, 0.2):
    bounds = [float(torch.stack(list(bottom_up_terms(walks(-1.2, T, error)).values())).sum(0).mean()) for T in depths]
    ax.plot(depths, bounds, "o-", label=f"error {error:g}")
ax.set(xscale="log", xticks=depths, xticklabels=depths, xlabel="depth T", ylabel="bound, nats")
_ = ax.legend()

# %% [markdown]
# ## Exercise
#
# The data are $\mathcal N(0, 1)$, the generative model is the exact reverse of the inference, and the depth is 50.
# How many nats does **each** walk from $x = 0.7$ cost?

# %% tags=["exercise"]
cost_of_a_walk = None

# %% tags=["check"]
check(
    cost_of_a_walk,
    torch.stack(list(bottom_up_terms(walks(0.7, depth=50, error=0.0, count=1)).values())).sum(),
    "Everything cancels but one factor. The depth does not matter.",
    rtol=1e-4,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo train hvae` trains a hierarchy with either inference; top-down inference (Sønderby et al. 2016) makes every level a
# divergence. In chapter 15 the same walk is the *trajectory* form of a diffusion model's bound.
