# %% [markdown]
# # 11. Three predictions, one model
#
# A denoiser sees $x_t$ and should find the image $x_0$.
# The network can predict the image itself, or the noise $\varepsilon$ in $x_t$, or a mixture of both that is called $v$.
# If one of the three is known, the other two follow, because $x_t$ is known and two equations have two unknowns.
# So the three are one model, written in three ways; a mean of the reverse step would be a fourth.
# They are not equally easy to learn, because an error of the network is not the same error of the image.
# With much noise, a small error of $\varepsilon$ is a huge error of the image.
# With little noise, a small error of the image is a huge error of $\varepsilon$.
# $v$ is the balanced one: an error of $v$ is at most as large an error of the image, and of the noise.
# The geometry is a rotation: $(x_0, \varepsilon)$ turned by an angle that grows with $t$ is $(x_t, v)$.
# The bound does not care which one the network predicts: it is a function of the denoised image.

# %% [markdown]
# ## The equations
#
# With $\sqrt{\bar\alpha_t} = \cos\varphi$ and $\sqrt{1-\bar\alpha_t} = \sin\varphi$:
#
# $$x_t = \cos\varphi\;x_0 + \sin\varphi\;\varepsilon \quad\text{Ho et al. 2020 (4)}, \qquad
# v = \cos\varphi\;\varepsilon - \sin\varphi\;x_0 \quad\text{Salimans and Ho 2022, appendix D}$$
#
# $$\hat x_0 = \frac{x_t - \sin\varphi\;\hat\varepsilon}{\cos\varphi} = \cos\varphi\;x_t - \sin\varphi\;\hat v,
# \qquad \hat\varepsilon = \frac{x_t - \cos\varphi\;\hat x_0}{\sin\varphi} = \sin\varphi\;x_t + \cos\varphi\;\hat v$$

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.diffusion.denoiser import X0, Epsilon, LinearPrediction, Velocity
from nelbo.diffusion.process import diffuse, noise_rate, signal_rate
from nelbo.diffusion.schedules import LinearBeta, chain_of

gammas = chain_of(LinearBeta().grid(1000))  # DDPM's table
KINDS: dict[str, LinearPrediction] = {"x₀": X0(), "ε": Epsilon(), "v": Velocity()}


def number(value: float) -> Tensor:
    """A batch of one image of one pixel."""
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


x_0, eps, gamma = number(0.3), number(-0.5), gammas[200:201]
x_t = diffuse(x_0, gamma, eps)
for name, kind in KINDS.items():
    target = kind.target(x_0, eps, gamma)  # what the network should say
    denoised = kind.denoised(target, x_t, gamma)  # what follows from it
    print(
        f"network says {name} = {target.item():7.4f}  →  x₀ = {denoised.x_0.item():.4f}, ε = {denoised.eps.item():.4f}"
    )


# %% [markdown]
# ## The rotation
#
# Left: the black arrow is the pair $(x_0, \varepsilon)$. Its coordinates along the turned axes are $x_t$ and $v$.
# Right: the network's answer is wrong by 0.1. The lines show how wrong the image then is, at every $t$.


# %%
def draw_rotation(x_0: float, eps: float, t: int) -> None:
    """The pair in both pairs of axes, and how an error of 0.1 grows."""
    gamma = gammas[t : t + 1]
    signal, noise = float(signal_rate(gamma)), float(noise_rate(gamma))
    x_t, v = signal * x_0 + noise * eps, signal * eps - noise * x_0
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for (dx, dy), value, name, colour in (((signal, noise), x_t, "$x_t$", "C0"), ((-noise, signal), v, "$v$", "C1")):
        left.axline((0, 0), (dx, dy), color=colour, linewidth=0.8, linestyle="--")
        left.plot([0, value * dx], [0, value * dy], color=colour, linewidth=4, label=f"{name} = {value:.3f}")
        left.plot([x_0, value * dx], [eps, value * dy], color="grey", linewidth=0.8, linestyle=":")
    left.annotate("", (x_0, eps), (0, 0), arrowprops={"arrowstyle": "->", "linewidth": 2})
    left.set(xlabel="$x_0$", ylabel="ε", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", title=f"t = {t}")
    left.legend(loc="lower left")

    grid = gammas[1:]
    images, noises = (torch.full((1000, 1, 1, 1), value, dtype=torch.float64) for value in (x_0, eps))
    noisy = diffuse(images, grid, noises)
    for name, kind in KINDS.items():
        wrong = kind.denoised(kind.target(images, noises, grid) + 0.1, noisy, grid)
        right.semilogy(range(1, 1001), (wrong.x_0 - images).abs().flatten(), label=f"network predicts {name}")
    right.axvline(t, color="grey", linewidth=0.8)
    right.set(xlabel="t", ylabel="error of the image", title="the network's answer is wrong by 0.1", ylim=(1e-4, 30))
    right.legend(fontsize=8)


# Change this and run again: the pixel x_0, its noise ε, and the step t.
turn(draw_rotation, x_0=(1.0, -1.0, 1.0), eps=(0.4, -1.5, 1.5), t=(150, 1, 1000))

# %% [markdown]
# ## Exercise
#
# A pixel is $x_0 = 0.7$, its noise is $\varepsilon = 1$, and $t = 500$ on DDPM's linear table with $T = 1000$.
# Compute $x_t$ and $v$. (`gammas[500:501]` is $\gamma$ there, and `signal_rate` is $\sqrt{\bar\alpha}$.)

# %% tags=["exercise"]
x_500 = None
v_500 = None

# %% tags=["check"]
here = gammas[500:501]
check(
    (x_500, v_500),
    (
        diffuse(number(0.7), here, number(1.0)).item(),
        Velocity().target(number(0.7), number(1.0), here).item(),
    ),
    "x_t = √ᾱ x_0 + √(1 − ᾱ) ε and v = √ᾱ ε − √(1 − ᾱ) x_0, with the cumulative ᾱ_500 and its square root.",
    rtol=1e-4,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.diffusion.denoiser` is the table of all predictions, and turns any network into a denoiser. Every model of nelbo that
# is not told otherwise predicts $v$, or a law over the levels of each pixel.
