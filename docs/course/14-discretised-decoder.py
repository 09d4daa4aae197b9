# %% [markdown]
# # 14. The discretised decoder
#
# A pixel of an image is an integer: a level from 0 to 255.
# A normal distribution is a density over real numbers, and a density is not a probability.
# At a small $\sigma$ a density is larger than 1, its negative logarithm is negative, and "bits" below zero mean nothing.
# The remedy is to integrate the density over the bin of each level, half a spacing to either side.
# The bins of the darkest and the brightest level reach to infinity, so that all probabilities sum to one.
# Then the decoder $p(x_0\mid x_1)$ gives every image a probability, and its negative logarithm is the length of a code.
# This is what makes bits/dim of different models comparable: both are lengths of codes of the same integers.
# The number of bits depends on two things: how far the mean is from the pixel, and how wide $\sigma$ is.
# A $\sigma$ that is too small is expensive when the mean is wrong, and one that is too large is expensive always.
# The best $\sigma$ is about as large as the error of the mean.

# %% [markdown]
# ## The equations
#
# Level $k$ of $L$ has the value $x_k = \frac{2k}{L-1} - 1$, and the spacing is $\frac{2}{L-1}$:
#
# $$P(k) = \int_{x_k - \frac1{L-1}}^{x_k + \frac1{L-1}} \mathcal N(x; \mu, \sigma^2)\,dx
# = \Phi\Big(\frac{x_k + \frac1{L-1} - \mu}{\sigma}\Big) - \Phi\Big(\frac{x_k - \frac1{L-1} - \mu}{\sigma}\Big)
# \qquad\text{Ho et al. 2020 (13)}$$
#
# with $-\infty$ as the lower end for $k = 0$ and $+\infty$ as the upper end for $k = L - 1$. In bits: $-\log_2 P(k)$.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from nelbo.course import check, turn
from nelbo.theory.likelihoods import DiscretizedNormal, to_unit
from nelbo.theory.normal import Gaussian
from nelbo.units import BITS_PER_NAT


def number(value: float) -> Tensor:
    """A float64 scalar."""
    return torch.tensor(value, dtype=torch.float64)


law = DiscretizedNormal(mean=number(0.1), std=number(0.2), levels=17)
print(f"sum of the probabilities of 17 levels: {law.log_probs().exp().sum():.12f}")

# %% [markdown]
# ## A normal distribution over levels
#
# The curve is the density, the bars are the probabilities of the levels, drawn with the width of their bins (dark: the outermost,
# which take the rest of the tail).


# %%
def draw_levels(mean: float, std: float, levels: int) -> None:
    """The density and the probability of every level."""
    law = DiscretizedNormal(number(mean), number(std), levels)
    values, probabilities = to_unit(torch.arange(levels), levels), law.log_probs().exp()
    spacing = 2 / (levels - 1)
    grid = torch.linspace(-1.4, 1.4, 600, dtype=torch.float64)
    _, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    colours = ["C1" if k in (0, levels - 1) else "C0" for k in range(levels)]
    ax.bar(values, probabilities, width=0.95 * spacing, color=colours, alpha=0.6)
    twin = ax.twinx()
    twin.plot(grid, Gaussian(number(mean), number(std**2)).log_prob(grid).exp(), "k", linewidth=0.8)
    twin.set(ylabel="density", ylim=(0, None))
    ax.set(xlabel="pixel, from −1 to 1", ylabel="probability of the level", xlim=(-1.4, 1.4))
    entropy = -float((probabilities * law.log_probs()).sum()) * BITS_PER_NAT
    ax.set_title(f"sum {float(probabilities.sum()):.6f}, expected bits {entropy:.3f}")


# Change this and run again: the mean, σ, and the number of levels.
turn(draw_levels, mean=(0.75, -1.2, 1.2), std=(0.25, 0.02, 1.0), levels=(17, 2, 33))

# %% [markdown]
# ## The right σ, and the density that is not a probability
#
# Each line is a pixel with 256 levels whose mean is wrong by some levels. The best $\sigma$ (dots) grows with the error.
# The dashed line uses the density times the width of the bin instead of the integral. Where $\sigma$ is large it is a good
# approximation; where $\sigma$ is smaller than a bin it promises less than zero bits, a code that nobody can write.


# %%
def draw_bits(level: int, largest_error: int) -> None:
    """Bits over σ for means that are wrong by 0, 1, 2, 4, … levels."""
    stds = torch.logspace(-3.5, 0, 300, dtype=torch.float64)
    _, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    k, error = torch.tensor(level), 0
    sign = 1 if level + largest_error < 256 else -1  # a mean is never brighter than white
    while error <= largest_error:
        mean = number(2 * (level + sign * error) / 255 - 1)
        bits = -DiscretizedNormal(mean, stds, 256).log_prob(k) * BITS_PER_NAT
        (line,) = ax.semilogx(stds, bits, label=f"mean wrong by {error} levels")
        if error:
            best = int(bits.argmin())
            ax.plot(stds[best], bits[best], "o", color=line.get_color())
        error = 2 * error or 1
    here = number(2 * level / 255 - 1)
    density = -(Gaussian(here, stds**2).log_prob(here) + torch.tensor(2 / 255).log()) * BITS_PER_NAT
    ax.semilogx(stds, density, "k--", label="density × bin, mean exact")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axhline(8, color="grey", linestyle=":", label="uniform code: 8 bits")
    ax.set(xlabel="σ", ylabel="bits of the pixel", ylim=(-4, 14))
    ax.legend(fontsize=8)


# Change this and run again: the level of the pixel, and the largest error of the mean.
turn(draw_bits, level=(90, 0, 255), largest_error=(8, 0, 32))

# %% [markdown]
# ## Exercise
#
# A pixel has level 128 of 256, the decoder's mean is exactly the value of this level, and $\sigma = 0.01$.
# How many **bits** does the pixel cost?

# %% tags=["exercise"]
bits = None

# %% tags=["check"]
at_128 = DiscretizedNormal(number(2 * 128 / 255 - 1), number(0.01), 256)
check(
    bits,
    -at_128.log_prob(torch.tensor(128)) * BITS_PER_NAT,
    "The bin reaches 1/255 to either side of the mean: P = 2 Φ((1/255)/σ) − 1, and bits are −log2 P.",
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.diffusion.decoders` has this decoder with a fixed or a learned $\sigma$, and a categorical one that needs no normal
# distribution. The reconstruction term of every `nelbo score` is a sum of such costs.
