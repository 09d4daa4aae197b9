# %% [markdown]
# # 17. Bring your own network
#
# You have an idea for a network, a schedule or a loss, and want to know on the same day whether it is better.
# "Better" needs a number that is right, with an error bar, and a training that does not lose your work.
# In nelbo every part of a diffusion model can be yours; the rest stays as it is tested.
# A network is any `nn.Module` that is called as `network(z, gamma)` and returns as many channels as the prediction needs.
# A schedule is any increasing function $\gamma(t)$, and an objective any weight $w(\gamma) \ge 0$.
# A sampler is a class with one method, the step from $z_t$ to $z_s$.
# Whatever you choose, the bound stays a bound: a bad network makes it large, and never wrong.
# `nelbo.fit` trains the model in a run directory, with checkpoints, and can be interrupted and resumed.
# `run.score()` gives the bound on the test split, with the error over images and over noise.
# The forms of chapter 15 check your parts: they must agree.

# %% [markdown]
# ## The equations
#
# An objective is a weight on the integrand of the bound:
#
# $$\mathcal L_w = \tfrac12\int w(\gamma)\,\mathbb{E}\|\varepsilon-\hat\varepsilon(z_\gamma,\gamma)\|^2\,d\gamma
# \qquad\text{Kingma and Gao 2023}$$
#
# $w = 1$ is the bound. If $w$ never falls with $\gamma$, $\mathcal L_w$ is a bound of noised images (their theorem 1).
# A deterministic step of a sampler (Song et al. 2021, DDIM (12), with $\sigma = 0$) is
#
# $$z_s = \sqrt{\bar\alpha_s}\,\hat x + \sqrt{1-\bar\alpha_s}\,\hat\varepsilon .$$

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import nelbo
from nelbo.course import check, turn
from nelbo.diffusion.denoiser import Denoised
from nelbo.diffusion.process import diffuse, rates
from nelbo.diffusion.samplers import Before
from nelbo.report.pictures import beside, grid
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian

# %% [markdown]
# ## Your parts
#
# A network without resolutions: a stack of residual convolutions, each of which knows $\gamma$.

# %%
# Change this and run again: the channels, the number of blocks, and the number of training steps.
WIDTH, BLOCKS = 32, 4
STEPS = 1000


class MyBlock(nn.Module):
    """h + two convolutions, with a shift that depends on γ."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.shift = nn.Linear(16, WIDTH)

    def forward(self, h: Tensor, noise: Tensor) -> Tensor:
        inside = self.first(nn.functional.silu(h)) + self.shift(noise)[:, :, None, None]
        return h + self.second(nn.functional.silu(inside))


class MyNet(nn.Module):
    """z, shape (B, 1, 8, 8), and γ, shape (B,) → a prediction of the shape of z."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(MyBlock() for _ in range(BLOCKS))
        self.leave = nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.register_buffer("frequencies", torch.linspace(0.1, 1.6, 16))

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        h, noise = self.enter(z), torch.sin(gamma[:, None] * self.frequencies)
        for block in self.blocks:
            h = block(h, noise)
        return self.leave(h)


def my_schedule(t: Tensor) -> Tensor:
    """γ(t), from almost no noise to almost no image, with more time in the middle."""
    return -7.5 + 15.0 * (0.5 * t + 2.0 * (t - 0.5) ** 3 + 0.25)


def my_weight(gamma: Tensor) -> Tensor:
    """w(γ): the finest noise counts less."""
    return torch.sigmoid(gamma + 5.0)


def draw_parts(objective: str) -> None:
    """Your schedule and your weight, beside a weight of nelbo."""
    t = torch.linspace(0.001, 0.999, 300, dtype=torch.float64)
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(t, my_schedule(t), "C3", label="my_schedule")
    for name in ("cosine", "linear_gamma"):
        left.plot(t, nelbo.schedules.SCHEDULES[name]()(t)[0], color="grey", linewidth=0.8)
    left.set(xlabel="t", ylabel="γ", ylim=(-14, 9))
    left.legend()
    gamma, slope = nelbo.schedules.FunctionSchedule(my_schedule)(t)
    theirs = nelbo.objectives.OBJECTIVES[objective]()
    right.plot(gamma, my_weight(gamma), "C3", label="my_weight")
    rises = "never falls" if theirs.is_monotone(gamma, slope) else "falls somewhere"
    right.plot(gamma, theirs.weight(gamma, slope), "C0", label=f"{objective}: {rises}")
    right.set(xlabel="γ", ylabel="w(γ)", ylim=(0, 2.5))
    right.legend()


# Change this and run again: the objective to compare with.
turn(draw_parts, objective=["simple", "min_snr", "sigmoid", "bound", "edm", "flow_matching"])

# %% [markdown]
# ## Train, score, sample
#
# `nelbo.fit` takes an array, a tensor, a `Dataset` or a SPEC such as `"digits"`. The run remembers the names of your parts. To open it
# later, give them again: `nelbo.load(path, network=MyNet(), schedule=my_schedule, objective=my_weight)`.

# %%
torch.manual_seed(0)
model = nelbo.Diffusion(
    MyNet(), shape=(1, 8, 8), levels=17, predict="v", schedule=my_schedule, objective=my_weight, timesteps=100
)
run = nelbo.fit(model, "digits", steps=STEPS, device="cpu", out=Path(tempfile.mkdtemp()) / "mine")
print(run.score())

# %% [markdown]
# The three forms of the bound, on the same images, each from its own equation. They agree within their errors: your parts and the
# model fit together.

# %%
trained = run.model(device="cpu")
assert isinstance(trained, nelbo.Diffusion)
images = run.dataset.split("test")[:100]
for form in ("denoising", "consistency", "trajectory"):
    estimates = torch.stack([trained.bound(images, form=form, seed=seed).total for seed in range(6)])
    error = estimates.std(0).square().mean().div(6 * len(images)).sqrt()
    print(f"{form:12s} {estimates.mean():7.2f} ± {error:.2f} nats")


# %%
class MySampler(nelbo.samplers.Sampler):
    """DDIM without noise: the step to z_s with the same x̂ and ε̂."""

    def step(
        self, z_t: Tensor, denoised: Denoised, gamma_t: Tensor, gamma_s: Tensor, before: Before | None = None
    ) -> Gaussian:
        signal, noise = rates(gamma_s, z_t)
        return Gaussian(signal * denoised.x_0 + noise * denoised.eps, torch.zeros_like(signal))


samples = trained.sample(36, sampler=MySampler(), steps=50)
beside(grid(images[:36], 17), "images", grid(samples, 17), "my network, my sampler")

# %% [markdown]
# ## Where are the bits?
#
# The bound is the area under this curve (chapter 8). A network that cannot do something shows it here: at low $\gamma$ it fails at
# details, at high $\gamma$ at the whole. The dotted line is a network that always answers zero.

# %%
x = to_unit(run.dataset.split("test"), 17)
places = torch.linspace(-7.4, 7.4, 60, dtype=torch.float64)
source, costs = torch.Generator().manual_seed(0), []
with torch.no_grad():
    for gamma in places:
        eps = torch.randn(x.shape, generator=source)
        every = gamma.expand(len(x))
        answer = trained.denoiser(diffuse(x, every, eps), every)
        costs.append(float(0.5 * (eps - answer.eps).square().flatten(1).sum(1).mean()))
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(places, costs, "C3")
ax.fill_between(places, costs, color="C3", alpha=0.2)
ax.axhline(32, linestyle=":", color="grey")
_ = ax.set(xlabel="γ: from little noise to much noise", ylabel="½ E‖ε − ε̂‖², nats per unit of γ", ylim=(0, 36))

# %% [markdown]
# ## Exercise
#
# You write a network for colour images of 3×32×32, with `predict="v"`, `decoder="learned_gaussian"` and
# `reverse_variance="learned"`, in 1000 steps. How many channels must it return?

# %% tags=["exercise"]
channels = None

# %% tags=["check"]
colour = nelbo.Diffusion(
    nn.Identity(),
    shape=(3, 32, 32),
    levels=256,
    predict="v",
    schedule="cosine",
    decoder="learned_gaussian",
    reverse_variance="learned",
    timesteps=1000,
)
check(
    channels,
    colour.denoiser.outputs * 3,
    "One number per pixel and channel for v, and one more for each variance that is learned.",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.VAE`, `nelbo.HVAE`, `nelbo.GAN` and `nelbo.AE` take networks in the same way. A package of your own can add a family with
# an entry point, and then `nelbo train` knows it.
