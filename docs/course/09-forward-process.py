# %% [markdown]
# # 9. The forward process, and its proof
#
# The forward process destroys an image in $T$ small steps.
# Each step shrinks the image a little and adds a little Gaussian noise.
# The shrinking is chosen so that data of variance one keep the variance one.
# The table $\beta_1, \dots, \beta_T$ says how much noise each step adds.
# Nothing is learned here: the process is fixed.
# Its most useful property is that all steps up to $t$ together are one Gaussian step.
# So training can jump to any $t$ directly, without walking through the steps before it.
# After all steps, the image is gone: what is left has almost exactly the distribution $\mathcal N(0, I)$.
# How much of the image is left after $t$ steps is one number, $\bar\alpha_t$.
# A schedule is a choice of this curve.

# %% [markdown]
# ## The equations, and the proof
#
# $$q(x_t\mid x_{t-1}) = \mathcal N\big(\sqrt{\alpha_t}\,x_{t-1},\, \beta_t I\big), \quad \alpha_t = 1-\beta_t
# \qquad\text{Ho et al. 2020 (2)}$$
#
# $$q(x_t\mid x_0) = \mathcal N\big(\sqrt{\bar\alpha_t}\,x_0,\, (1-\bar\alpha_t) I\big),
# \quad \bar\alpha_t = \prod_{i\le t}\alpha_i \qquad\text{Ho et al. 2020 (4)}$$
#
# **Proof by induction over $t$.** For $t = 1$ both lines are the same. Let (4) hold for $t - 1$. Then
# $x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,x_0 + \sqrt{1-\bar\alpha_{t-1}}\,\bar\varepsilon$ with standard normal $\bar\varepsilon$, and
# one more step with fresh noise $\varepsilon$ gives
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon
# = \sqrt{\alpha_t\bar\alpha_{t-1}}\,x_0 + \sqrt{\alpha_t(1-\bar\alpha_{t-1})}\,\bar\varepsilon + \sqrt{\beta_t}\,\varepsilon .$$
#
# The first factor is $\sqrt{\bar\alpha_t}$. The sum of two independent Gaussians is Gaussian, and its variance is the sum of both:
# $\alpha_t(1-\bar\alpha_{t-1}) + \beta_t = \alpha_t - \bar\alpha_t + 1 - \alpha_t = 1 - \bar\alpha_t$. ∎

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.data import load
from nelbo.diffusion.process import diffuse, marginal, noise_var, signal_rate, transition
from nelbo.diffusion.schedules import SCHEDULES, betas_of, chain_of
from nelbo.report.pictures import grid
from nelbo.theory.likelihoods import to_levels, to_unit

T = 1000
NAMES = ["linear", "cosine", "sigmoid", "rectified_flow"]


def chain(name: str) -> Tensor:
    """γ of the chain −∞, γ_1 … γ_T; nelbo writes ᾱ = sigmoid(−γ)."""
    return chain_of(SCHEDULES[name]().grid(T))


# %% [markdown]
# The proof, as numbers: the mean and the variance after 300 single steps, and of one jump.

# %%
gammas = chain("cosine")
x_0 = torch.full((1, 1), 0.7, dtype=torch.float64)
mean, var = x_0, torch.zeros_like(x_0)
for t in range(1, 301):
    step = transition(mean, gammas[t - 1 : t], gammas[t : t + 1])  # of the mean: √α_t times it; its variance is β_t
    mean, var = step.mean, (1 - step.var) * var + step.var
jump = marginal(x_0, gammas[300:301])
print(f"300 steps: mean {mean.item():.12f}, variance {var.item():.12f}")
print(f"one jump:  mean {jump.mean.item():.12f}, variance {jump.var.item():.12f}")

# %% [markdown]
# ## A schedule, seen three ways
#
# Above: paths of single pixels that start at −0.8 or 0.5, over the density of all of them. At the right end, both groups are one.
# Below left: how much of the image is left. Below right: what each step adds.


# %%
def draw_schedule(name: str) -> None:
    """Paths and density of the forward process, ᾱ_t and β_t."""
    gammas, starts = chain(name), torch.tensor([-0.8, 0.5], dtype=torch.float64)
    x = starts.repeat(12)[:, None]
    noise, path = torch.Generator().manual_seed(1), [x]
    for t in range(1, T + 1):
        eps = torch.randn(x.shape, generator=noise, dtype=torch.float64)
        x = transition(x, gammas[t - 1].expand(len(x)), gammas[t].expand(len(x))).sample(eps)
        path.append(x)

    levels = torch.linspace(-3, 3, 200, dtype=torch.float64)
    laws = [marginal(start.expand(T, 1), gammas[1:]) for start in starts]
    density = sum(law.log_prob(levels).exp() for law in laws) / 2
    figure = plt.figure(figsize=(9, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    ax = above.subplots()
    ax.imshow(density.T.clamp(max=1.2), origin="lower", extent=(1, T, -3, 3), aspect="auto", cmap="Blues", alpha=0.8)
    ax.plot(torch.cat(path, 1).T, linewidth=0.5, color="C3", alpha=0.7)
    ax.set(xlabel="t", ylabel="$x_t$", ylim=(-3, 3), xlim=(0, T), title=name)
    left, right = below.subplots(1, 2)
    for each in NAMES:
        style = {"linewidth": 2.5, "color": "C3"} if each == name else {"color": "grey", "linewidth": 0.8}
        left.plot(1 - noise_var(chain(each))[1:], **style)
        right.semilogy(betas_of(chain(each)[1:]), **style)
    left.set(xlabel="t", ylabel="ᾱ: signal that is left")
    right.set(xlabel="t", ylabel="β: noise of a step")


# Change this and run again: the schedule.
turn(draw_schedule, name=["linear", "cosine", "sigmoid", "rectified_flow"])

# %% [markdown]
# The same for digits, with the linear table of Ho et al. (2020): rows are digits, columns are $t = 0, 50, 100, 200, 400, 800$.

# %%
digits = load("digits")
x = to_unit(digits.split("test")[:4], digits.levels)
eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
columns = [diffuse(x, chain("linear")[t].expand(len(x)), eps) for t in (0, 50, 100, 200, 400, 800)]
grid(to_levels(torch.stack(columns, 1).flatten(0, 1), digits.levels), digits.levels, columns=6)

# %% [markdown]
# ## Exercise
#
# DDPM's table is linear: $\beta_1 = 10^{-4}$, $\beta_{1000} = 0.02$, and evenly spaced between them.
# Compute $\bar\alpha_{1000}$, the share of the signal's variance that is left at the end, to at least four digits.
# A few lines of Python are enough.

# %% tags=["exercise"]
alpha_bar_1000 = None

# %% tags=["check"]
check(
    alpha_bar_1000,
    signal_rate(chain("linear")[-1]) ** 2,
    "ᾱ_1000 is the product of all 1 − β_t. It is neither e^(−Σβ) nor a power of the mean, and not a square root.",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.diffusion.process` has `transition`, `marginal` and `diffuse`; `nelbo.diffusion.schedules` has every schedule, also your
# own function. The next chapter goes one step back: the posterior of $x_{t-1}$ if both $x_t$ and $x_0$ are known.
