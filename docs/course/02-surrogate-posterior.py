# %% [markdown]
# # 2. The surrogate posterior and the ELBO
#
# A latent variable $Z$ is something that we do not see, and $X$ is what we see.
# A model gives a prior $p(z)$ and a likelihood $p(x\mid z)$, hence their product, the joint $p(x, z)$.
# What we want is the posterior $p(z\mid x)$: which $z$ may have led to this $x$?
# It is the joint divided by the evidence $p(x) = \int p(x, z)\,dz$, and this integral is the difficult part.
# Variational inference replaces the integral by an optimisation.
# It chooses a distribution $q(z)$ from a simple family, the surrogate, and makes it as close to the posterior as possible.
# The divergence $\mathrm{KL}(q\,\|\,p(z\mid x))$ cannot be computed, because it contains the unknown evidence.
# The ELBO, the evidence lower bound, can be computed: it needs only the joint.
# ELBO and divergence add up to the log-evidence, which does not depend on $q$.
# So a larger ELBO always means a smaller divergence, and the largest possible ELBO is the log-evidence itself.

# %% [markdown]
# ## The equations
#
# $$\ln p(x) = \underbrace{\mathbb{E}_{z\sim q}\left[\ln p(x, z) - \ln q(z)\right]}_{\mathrm{ELBO}(q)}
# + \mathrm{KL}\big(q(z)\,\|\,p(z\mid x)\big) \qquad\text{Jordan et al. 1999; Bishop 2006 (10.2)}$$
#
# The proof has one line: $\ln p(x) = \ln p(x,z) - \ln p(z\mid x)$ for **every** $z$; add and subtract $\ln q(z)$, and take
# the expectation over $q$.
#
# Our example has a known answer: $Z \sim \mathcal N(0, 1)$ and $X \mid Z \sim \mathcal N(Z, 1)$. Then
# $X \sim \mathcal N(0, 2)$ and $Z \mid X = x \sim \mathcal N(x/2, 1/2)$.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.theory.normal import Gaussian, kl_normal
from nelbo.theory.surrogates import LogJoint, MeanField, elbo, fit, log_evidence


def number(value: float) -> Tensor:
    """A float64 scalar."""
    return torch.tensor(value, dtype=torch.float64)


def log_joint_of(x: float) -> LogJoint:
    """ln p(x, z) of our example, for z of shape (S, 1)."""

    def log_joint(z: Tensor) -> Tensor:
        prior = Gaussian(number(0.0), number(1.0)).log_prob(z[:, 0])
        likelihood = Gaussian(z[:, 0], number(1.0)).log_prob(number(x))
        return prior + likelihood

    return log_joint


def exact_log_evidence(x: float) -> float:
    """ln p(x), known here because X ~ N(0, 2)."""
    return float(Gaussian(number(0.0), number(2.0)).log_prob(number(x)))


def surrogate(mean: float, std: float) -> MeanField:
    """q(z) = N(mean, std²)."""
    q = MeanField(torch.tensor([mean], dtype=torch.float64))
    q.log_diagonal.data.fill_(math.log(std))
    return q


x = 2.0
q = surrogate(mean=0.0, std=1.0)  # the prior itself
gap = kl_normal(number(0.0), number(1.0), number(x / 2), number(0.5))
estimate = elbo(log_joint_of(x), q, count=200_000)
print(f"ELBO        {estimate.value:8.4f} ± {estimate.stderr:.4f}   (Monte Carlo, needs only the joint)")
print(f"+ KL        {gap:8.4f}            (needs the posterior, known in this example)")
print(f"= ln p(x)   {estimate.value + gap:8.4f}            exact: {exact_log_evidence(x):.4f}")

# %% [markdown]
# Move the surrogate below.
# The two bars always end at the same line: what the ELBO gains, the divergence loses.


# %%
def draw_surrogate(mean: float, std: float) -> None:
    """Posterior and surrogate, and the split of the evidence."""
    z = torch.linspace(-6, 7, 400, dtype=torch.float64)  # all of q at both ends
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(2, 1), layout="constrained")
    posterior, q = Gaussian(number(x / 2), number(0.5)), Gaussian(number(mean), number(std**2))
    left.fill_between(z, posterior.log_prob(z).exp(), alpha=0.3, label="posterior p(z|x)")
    left.plot(z, q.log_prob(z).exp(), color="C1", label="surrogate q(z)")
    left.plot(z, Gaussian(number(0.0), number(1.0)).log_prob(z).exp(), ":", color="grey", label="prior p(z)")
    left.set(xlabel="z", title=f"x = {x:g}")
    left.legend()

    value = elbo(log_joint_of(x), surrogate(mean, std)).value
    gap = float(kl_normal(q.mean, q.var, posterior.mean, posterior.var))
    right.bar(["−ELBO"], [-value], color="C1")
    right.bar(["−ln p(x) + KL"], [-exact_log_evidence(x)], color="C0", label="−ln p(x)")
    right.bar(["−ln p(x) + KL"], [gap], bottom=-exact_log_evidence(x), color="C3", label="KL(q‖posterior)")
    right.axhline(-exact_log_evidence(x), color="black", linewidth=0.8)
    right.set(ylabel="nats", ylim=(0, max(6.0, -1.35 * value)))
    right.legend(loc="upper left")


# Change this and run again: the mean and the standard deviation of q.
turn(draw_surrogate, mean=(0.2, -2.0, 3.0), std=(1.0, 0.2, 2.0))

# %% [markdown]
# ## Climbing the ELBO
#
# `nelbo.theory.surrogates.fit` maximises the ELBO by stochastic gradients.
# It sees only $\ln p(x, z)$, never the posterior, and still ends at the posterior's mean $x/2$ and variance $1/2$.

# %%
q = surrogate(mean=-2.0, std=2.0)
path = [(q.mean.item(), q.log_diagonal.exp().item(), step.elbo.value) for step in fit(log_joint_of(x), q, steps=400)]
means, stds, values = zip(*path, strict=True)
mean_grid, std_grid = torch.meshgrid(torch.linspace(-2.5, 2.5, 80), torch.linspace(0.3, 2.4, 80), indexing="ij")
gaps = kl_normal(mean_grid, std_grid**2, number(x / 2), number(0.5))
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.contourf(mean_grid, std_grid, exact_log_evidence(x) - gaps, levels=30, cmap="viridis")
left.plot(means, stds, color="white", linewidth=1.5)
left.plot([x / 2], [math.sqrt(0.5)], "r*", markersize=12)
left.set(xlabel="mean of q", ylabel="standard deviation of q", title="ELBO; the star is the posterior")
right.plot(values, linewidth=0.6, label="ELBO, 32 samples per step")
right.axhline(exact_log_evidence(x), color="black", label="ln p(x)")
right.set(xlabel="step", ylabel="nats", ylim=(-6, -1.5))
right.legend()
print(f"q = N({q.mean.item():.3f}, {q.log_diagonal.exp().item() ** 2:.3f}); the posterior is N({x / 2}, 0.5)")

# %% [markdown]
# A surrogate that is not the posterior still gives the evidence, if its samples are weighted by $p(x, z)/q(z)$
# (importance sampling, Burda et al. 2016 (8)): the logarithm of the mean weight is at least the ELBO.

# %%
rough = surrogate(mean=0.5, std=1.2)
print(f"ELBO of a rough surrogate    {elbo(log_joint_of(x), rough).value:.4f}")
print(f"with 10,000 weights          {log_evidence(log_joint_of(x), rough).value:.4f}")
print(f"ln p(x)                      {exact_log_evidence(x):.4f}")

# %% [markdown]
# ## Exercise
#
# Now we observe $x = 1.3$ in the same model. What is the **largest** ELBO that any surrogate can reach?

# %% tags=["exercise"]
largest_elbo = None

# %% tags=["check"]
check(
    largest_elbo,
    exact_log_evidence(1.3),
    "The divergence can be zero here, since the posterior is normal. What is left of ln p(x) = ELBO + KL?",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.theory.surrogates` has mean-field and full-rank Gaussians and any other distribution of torch as surrogates.
# A variational autoencoder (chapter 4) computes the surrogate of every image with one network.
