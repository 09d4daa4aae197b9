# %% [markdown]
# # 8. Variational diffusion
#
# Take the hierarchy of chapter 7, give every latent the size of the image, and fix the inference: add Gaussian noise.
# The noise is described by one number, the signal-to-noise ratio SNR, and we use its negative logarithm $\gamma = -\ln\mathrm{SNR}$.
# A noise schedule is an increasing function $\gamma(t)$ from $t = 0$, almost no noise, to $t = 1$, almost no image.
# Only the reverse process is learned, and it needs one network: a denoiser $\hat\varepsilon(z, \gamma)$ that estimates the noise in $z$.
# The bound has three terms: the reconstruction at $t = 0$, the prior at $t = 1$, and the diffusion term between them.
# With $T$ steps, the diffusion term is a sum of $T$ KL divergences between normal distributions.
# More steps make it smaller, because the reverse of a small Gaussian step is closer to a Gaussian.
# In the limit of infinitely many steps the sum becomes an integral over $t$.
# Change the variable from $t$ to $\gamma$, and the schedule disappears: only its two ends are left.
# So the shape of $\gamma(t)$ does not change the bound; it changes only the variance of its estimate from random $t$.

# %% [markdown]
# ## The equations
#
# $$z_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1-\bar\alpha_t}\,\varepsilon, \qquad \bar\alpha_t = \mathrm{sigmoid}(-\gamma_t),
# \qquad \mathrm{SNR} = e^{-\gamma}\qquad\text{Kingma et al. 2021, section 3.1}$$
#
# $$\mathcal L_T = \tfrac12\sum_{t}\big(e^{\gamma_t - \gamma_s} - 1\big)\,\mathbb{E}\|\varepsilon-\hat\varepsilon(z_t,\gamma_t)\|^2
# \qquad\text{Kingma et al. 2021 (14), with } \gamma_t = \gamma(t) \text{ and } s \text{ the step before } t$$
#
# $$\mathcal L_\infty = \tfrac12\int_0^1 \gamma'(t)\,\mathbb{E}\|\varepsilon - \hat\varepsilon(z_t,\gamma_t)\|^2\,dt
# = \tfrac12\int_{\gamma(0)}^{\gamma(1)} \mathbb{E}\|\varepsilon-\hat\varepsilon(z_\gamma,\gamma)\|^2\,d\gamma
# \qquad\text{Kingma et al. 2021 (17), (18)}$$
#
# $\bar\alpha_t$ is the share of the image in the variance of $z_t$, and $1 - \bar\alpha_t$ that of the noise; the SNR is their quotient.
# (Kingma et al. write (18) as an integral over the SNR. Their $\alpha_t$ is our $\sqrt{\bar\alpha_t}$.)

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.data import load
from nelbo.diffusion.schedules import Between, Cosine, FixedSchedule, FunctionSchedule, LinearBeta, Sigmoid
from nelbo.diffusion.variances import step_weight
from nelbo.theory.densities import integral
from nelbo.theory.exact import GaussianData
from nelbo.theory.likelihoods import to_unit
from nelbo.units import bits_per_dim

# %% [markdown]
# ## Data for which the best denoiser is known
#
# For Gaussian data the best denoiser is linear, and `nelbo.theory.exact.GaussianData` has it in closed form.
# We fit a Gaussian to the digits, and everything below is exact for this Gaussian.

# %%
digits = load("digits")
x = to_unit(digits.split("train"), digits.levels).double().flatten(1)
data = GaussianData(x.mean(0), torch.cov(x.T) + 1e-3 * torch.eye(64))


def noise_error(gamma: Tensor) -> Tensor:
    """E‖ε − ε̂‖² of the best denoiser, averaged over the data, shape (B,): SNR times the squared error of x̂."""
    return (-gamma).exp() * data.squared_error(gamma, data.eigenvalues.expand(len(gamma), 64))


LOW, HIGH = -6.0, 6.0
SHAPES: dict[str, FixedSchedule] = {
    "straight": FunctionSchedule(lambda t: LOW + (HIGH - LOW) * t),
    "cosine": Between(Cosine(), LOW, HIGH),
    "linear β": Between(LinearBeta(), LOW, HIGH),
    "sigmoid": Between(Sigmoid(), LOW, HIGH),
}

# %% [markdown]
# ## Four shapes, one area
#
# Top: the schedules, all with the same ends. Middle: the integrand over $t$, whose area is $\mathcal L_\infty$, with the standard
# deviation (s.d.) of an estimate of the area from one random $t$.
# Bottom: the sum $\mathcal L_T$ for finite $T$, which falls to the same limit for every shape.


# %%
def area(schedule: FixedSchedule) -> tuple[float, float]:
    """L_∞ in nats, and the standard deviation of its estimate from one uniform t."""

    def moments(t: Tensor) -> Tensor:
        gamma, slope = schedule(t)
        value = 0.5 * slope * noise_error(gamma)
        return torch.stack([value, value**2], 1)

    mean, square = integral(moments, support=(0.0, 1.0)).tolist()
    return mean, (square - mean**2) ** 0.5


def steps_bound(schedule: FixedSchedule, T: int) -> float:
    """L_T in nats."""
    gamma = schedule.gamma(torch.linspace(0, 1, T + 1, dtype=torch.float64))
    return float((step_weight(gamma[:-1], gamma[1:]) * noise_error(gamma[1:])).sum())


def draw_shapes(shape: str, power: float) -> None:
    """The schedules, their integrands, and the bound in T steps; yours is bent by a power of t."""
    base = SHAPES[shape]
    shown = SHAPES | {f"yours: {shape}, $t^{{{power:.2g}}}$": FunctionSchedule(lambda t: base.gamma(t**power))}
    t, counts = torch.linspace(0.005, 0.995, 300, dtype=torch.float64), [2, 4, 8, 16, 32, 64, 128, 256]
    _, (top, middle, bottom) = plt.subplots(3, 1, figsize=(6, 10), layout="constrained")
    for name, schedule in shown.items():
        style = {"color": "black", "linewidth": 2} if name.startswith("yours") else {}
        gamma, slope = schedule(t)
        value, deviation = area(schedule)
        top.plot(t, gamma, label=name, **style)
        middle.plot(t, 0.5 * slope * noise_error(gamma), label=f"{value:.4f} ± {deviation:.1f}", **style)
        bottom.plot(counts, [steps_bound(schedule, T) for T in counts], ".-", **style)
    top.set(xlabel="$t$", ylabel="$γ(t)$")
    top.legend()
    middle.set(xlabel="$t$", ylabel="integrand, nats", ylim=(0, 250))
    middle.legend(title="area ± s.d. of one $t$")
    bottom.axhline(value, color="grey", linestyle=":")
    bottom.set(xscale="log", yscale="log", xlabel="steps $T$", ylabel="$L_T$, nats")


# Change this and run again: the shape of γ, and a power of t that bends it (1: as it is).
turn(draw_shapes, shape=["straight", "cosine", "linear β", "sigmoid"], power=(2.0, 0.8, 3.0))

# %% [markdown]
# The areas agree to every digit shown. The standard deviations do not: a shape that spends much of $t$ where little happens
# makes a poor estimator. This is what a learned $\gamma$ improves (Kingma et al. 2021, section 5.1), and what the loss profile
# of `nelbo.diffusion.timesteps` does without learning $\gamma$.
#
# Over $\gamma$, all four are one curve. It stays below $D/2$ for $D = 64$ pixels, the value of a denoiser that knows nothing and
# answers $\hat\varepsilon = 0$. The printed bits/dim are the nats divided by $D \ln 2$: bits for each pixel.

# %%
_, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
gamma = torch.linspace(LOW, HIGH, 300, dtype=torch.float64)
ax.plot(gamma, 0.5 * noise_error(gamma), label="½ E‖ε − ε̂‖²")
ax.fill_between(gamma, 0.5 * noise_error(gamma), alpha=0.2)
ax.axhline(32, color="grey", linestyle=":", label="D/2: a denoiser that knows nothing")
ax.set(xlabel="γ: from little noise to much noise", ylabel="nats per unit of γ", ylim=(0, 34))
ax.legend()
nats = area(SHAPES["straight"])[0]
print(
    f"diffusion term of Gaussian digits between γ = −6 and 6: {nats:.3f} nats = {bits_per_dim(nats, 64):.3f} bits/dim"
)

# %% [markdown]
# ## Exercise
#
# The data are one number $x\sim\mathcal N(0, 4)$, hence with standard deviation 2. What is $\mathcal L_\infty$, in nats, averaged
# over the data, for the best denoiser and any schedule from $\gamma = -6$ to $\gamma = 6$?
#
# You can solve the integral: the posterior variance of $x$ given $z$ is $\big(\tfrac14 + e^{-\gamma}\big)^{-1}$, and
# $\|\varepsilon-\hat\varepsilon\|^2 = e^{-\gamma}\|x-\hat x\|^2$. Or compute it with `GaussianData` and a schedule of your own.

# %% tags=["exercise"]
diffusion_term = None

# %% tags=["check"]
wide = GaussianData(torch.zeros(1), 4 * torch.eye(1))


def wide_integrand(t: Tensor) -> Tensor:
    """½ γ′ E‖ε − ε̂‖² of these data, with the cosine schedule."""
    gamma, slope = SHAPES["cosine"](t)
    return 0.5 * slope * (-gamma).exp() * wide.squared_error(gamma, wide.eigenvalues.expand(len(gamma), 1))


check(
    diffusion_term,
    integral(wide_integrand, support=(0.0, 1.0))[0],
    "½ ∫ 4/(4 + e^γ) dγ from −6 to 6. Did you use the variance 4 (not 2), and the factor ½?",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo train vdm` trains a model in continuous time and scores this integral; `--gamma learned` learns the shape.
# Chapter 9 looks at the forward process in discrete steps, as DDPM writes it.
