# %% [markdown]
# # 12. The simple loss, and both algorithms in 30 lines
#
# Everything is ready to train a diffusion model.
# Algorithm 1 draws an image, a step $t$ and noise, and asks the network for the noise in $x_t$.
# Its loss is the squared error of this answer, with the same weight for every $t$: $L_{\text{simple}}$.
# Algorithm 2 starts from pure noise and walks back, one posterior step at a time, with the network's answer.
# $L_{\text{simple}}$ is not the bound: the bound has another weight for every $t$, which is far larger for small $t$.
# Ho et al. found that the simple weights give better looking images, and the bound's weights better likelihoods.
# For a network that can represent the best answer at every $t$ exactly, the weights do not matter at all.
# They matter because real networks are too small, and must decide where to be exact.
# This chapter writes both algorithms by hand, on nelbo's schedule.
# The data are $\mathcal N(0, 1)$, where the best answer is known, so that we can see that both algorithms are right.

# %% [markdown]
# ## The equations
#
# $$L_{\text{simple}} = \mathbb{E}_{t, x_0, \varepsilon}\left\|\varepsilon - \varepsilon_\theta(x_t, t)\right\|^2,
# \qquad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon \qquad\text{Ho et al. 2020 (14)}$$
#
# $$L_{\text{bound}} = \sum_{t\ge 2} \frac{\beta_t^2}{2\sigma_t^2\alpha_t(1-\bar\alpha_t)}\,
# \mathbb{E}\left\|\varepsilon - \varepsilon_\theta(x_t, t)\right\|^2 + \dots \qquad\text{Ho et al. 2020 (12)}$$
#
# Here $\alpha_t = 1 - \beta_t$, $\sigma_t^2 = \beta_t$, and the dots are the first and the last term.
#
# If $x_0\sim\mathcal N(0,1)$, then $x_t\sim\mathcal N(0,1)$ at every $t$, and $x_t$ and $\varepsilon$ have the covariance
# $\sqrt{1-\bar\alpha_t}$. So the best answer is linear, $\varepsilon^*(x_t, t) = \sqrt{1-\bar\alpha_t}\;x_t$.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import nelbo
from nelbo.course import check, turn
from nelbo.diffusion.schedules import LinearBeta, betas_of
from nelbo.theory.exact import GaussianData

# %% [markdown]
# ## Both algorithms
#
# The table of $\beta_t$ is nelbo's; the rest is written out. The numbers in the comments are the lines of the paper's algorithms.
# The network has one number $a_t$ for each $t$ and answers $a_t x_t$. It knows nothing when training begins.

# %%
T = 1000
gammas = LinearBeta().grid(T)  # γ_1 … γ_T of DDPM's table
beta, alpha_bar = betas_of(gammas), torch.sigmoid(-gammas)
alpha = 1 - beta


class Table(nn.Module):
    """ε_θ(x_t, t) = a_t x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(T, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a[t] * x


def train(network: nn.Module, steps: int, batch: int = 20_000) -> None:  # Algorithm 1
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):  # 1: repeat
        x_0 = torch.randn(batch, dtype=torch.float64)  # 2: x_0 ~ q(x_0)
        t = torch.randint(T, (batch,))  # 3: t ~ Uniform({1, …, T}); index t holds step t + 1
        eps = torch.randn_like(x_0)  # 4: ε ~ N(0, I)
        x_t = alpha_bar[t].sqrt() * x_0 + (1 - alpha_bar[t]).sqrt() * eps
        loss = (eps - network(x_t, t)).square().mean()  # 5: gradient step
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()


@torch.no_grad()
def sample(network: nn.Module, count: int) -> Tensor:  # Algorithm 2
    x = torch.randn(count, dtype=torch.float64)  # 1: x_T ~ N(0, I)
    path = [x]
    for t in reversed(range(T)):  # 2: for t = T, …, 1
        z = torch.randn_like(x) if t > 0 else torch.zeros_like(x)  # 3
        mean = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * network(x, torch.tensor(t))) / alpha[t].sqrt()
        x = mean + beta[t].sqrt() * z  # 4, with σ_t² = β_t
        path.append(x)
    return torch.stack(path)  # 6: x_0 is the last row


# %%
torch.manual_seed(0)
network = Table()
train(network, steps=2500)
exact = (1 - alpha_bar).sqrt()
learned = network.a.detach()
path = sample(network, 20_000)
x_0 = path[-1]
print(f"largest error of a_t         {(learned - exact).abs().max():.4f}")
print(f"mean and variance of x_0     {x_0.mean():.3f}, {x_0.var():.3f}   (data: 0, 1)")

_, (top, middle, bottom) = plt.subplots(3, 1, figsize=(6, 9.6), layout="constrained")
top.plot(exact, color="black", label=r"exact: $\sqrt{1 - \bar{\alpha}_t}$")
top.plot(learned, color="C3", linewidth=0.8, label="learned by Algorithm 1")
top.set(xlabel="$t$", ylabel="$a_t$")
top.legend()
middle.plot(range(T, -1, -1), path[:, :30], linewidth=0.4, color="C0")
middle.set(xlabel="$t$", ylabel="$x_t$", xlim=(T, 0), title="Algorithm 2, 30 walks")
grid = torch.linspace(-4, 4, 200)
bottom.hist(x_0, bins=80, density=True, alpha=0.5, label="$x_0$ of 20,000 walks")
bottom.plot(grid, torch.distributions.Normal(0.0, 1.0).log_prob(grid).exp(), "k", label="N(0, 1)")
bottom.set(xlabel="$x_0$", ylabel="density")
_ = bottom.legend()

# %% [markdown]
# ## What the weights do
#
# Now the network is too small: $a_t$ is a polynomial of $t$ of a low degree. For these data Algorithm 1 is a weighted least-squares
# problem, $\min \sum_t w_t\,(a_t - \sqrt{1-\bar\alpha_t})^2$, so we can solve it instead of training.
# The weights are those of `nelbo.objectives`: an objective is a weight $w(\gamma)$ on the integrand of the bound
# (Kingma & Gao 2023), and ½ $w\,\gamma'$ is its weight of the squared error at step $t$.
# The weight of $\|x_0 - \hat x_0\|^2$ is the SNR in `simple`, at most 5 in `min_snr` and at least 1 in `max_snr`; `sigmoid` is
# $w = \mathrm{sigmoid}(\gamma + 2)$. The lower legend shows what the network's errors cost in the bound, in nats.

# %%
OBJECTIVES = {
    "simple": nelbo.objectives.Simple(),
    "bound": nelbo.objectives.Bound(),
    "min_snr": nelbo.objectives.MinSNR(5.0),
    "max_snr": nelbo.objectives.MaxSNR(),
    "sigmoid": nelbo.objectives.SigmoidWeight(2.0),
}
slope = T * (gammas[1:] - gammas[:-1])  # γ′ of each step from t = 2 on
powers = torch.linspace(0, 1, T - 1, dtype=torch.float64)[:, None]


def draw_weights(objective: str, degree: int) -> None:
    """The weights, the fitted a_t, and the nats that its errors cost."""
    _, (above, below) = plt.subplots(2, 1, figsize=(6, 7), layout="constrained")
    t = range(2, T + 1)
    for name in dict.fromkeys(["simple", "bound", objective]):
        weight = 0.5 * slope * OBJECTIVES[name].weight(gammas[1:], slope)
        basis = powers ** torch.arange(degree + 1)
        scale = weight.sqrt()[:, None]
        fit = basis @ torch.linalg.lstsq(scale * basis, scale * exact[1:, None]).solution
        error = (fit[:, 0] - exact[1:]).square()
        nats = float((0.5 * (gammas[1:] - gammas[:-1]).expm1() * error).sum())
        style = {"linewidth": 2.5} if name == objective else {"linewidth": 1.0}
        above.loglog(t, weight / weight.mean(), label=name, **style)
        below.loglog(t, error.sqrt(), label=f"{name}: costs {nats:.2g} nats", **style)
    above.set(xlabel="$t$", ylabel="weight, mean 1", ylim=(1e-3, 1e3))
    below.set(xlabel="$t$", ylabel="error of $a_t$", ylim=(1e-5, 1))
    above.legend()
    below.legend()


# Change this and run again: the objective, and the degree of the polynomial (the size of the network).
turn(draw_weights, objective=["min_snr", "max_snr", "sigmoid", "simple", "bound"], degree=(4, 0, 12))

# %% [markdown]
# ## Exercise
#
# What is the smallest possible value of $L_{\text{simple}}$ for these data ($x_0\sim\mathcal N(0,1)$, DDPM's linear table, $T = 1000$,
# $t$ uniform from 1 to 1000)? Give at least four digits.
# The table `alpha_bar` is all you need; first find $\mathbb{E}(\varepsilon - \sqrt{1-\bar\alpha_t}\,x_t)^2$.

# %% tags=["exercise"]
smallest_loss = None

# %% tags=["check"]
data = GaussianData(torch.zeros(1), torch.eye(1))
errors = (-gammas).exp() * data.squared_error(gammas, data.eigenvalues.expand(T, 1))
check(
    smallest_loss,
    errors.mean(),
    "The variance of ε is 1, and the part that x_t explains is its squared covariance with ε, 1 − ᾱ_t. Average over t.",
    rtol=1e-4,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.models._diffusion_loss.chain_loss` is Algorithm 1 for every objective, and `nelbo.diffusion.samplers.Ancestral` is
# Algorithm 2. Chapter 16 replaces the table $a_t$ by a network that sees images.
