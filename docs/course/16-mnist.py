# %% [markdown]
# # 16. Code a diffusion model
#
# Now everything comes together: a diffusion model of handwritten digits, written by hand.
# You write the network, the loss and the sampler; nelbo gives the schedule, the formulas of the last chapters, and the score.
# The network is a small U-Net as in chapter 13, and predicts $v$ as in chapter 11.
# The loss is that of Algorithm 1 in continuous time (chapters 8 and 12).
# The sampler is Algorithm 2, with the posterior of chapter 10.
# The score is the bound of chapter 15, on images that training has never seen.
# It is a number that can be compared: bits/dim, the length of a lossless code per pixel.
# A uniform code of the digits costs $\log_2 17 = 4.09$ bits/dim, one of MNIST costs 8.
# By default this chapter uses the 8×8 digits of scikit-learn, so that it takes less than a minute.
# With the environment variable `NELBO_COURSE_LONG=1`, set before the kernel starts, it uses MNIST, and takes ten minutes.

# %% [markdown]
# ## The equations
#
# $$z_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1-\bar\alpha_t}\,\varepsilon, \qquad
# v = \sqrt{\bar\alpha_t}\,\varepsilon - \sqrt{1-\bar\alpha_t}\,x, \qquad
# \text{loss} = \mathbb{E}_{t, \varepsilon}\|v - v_\theta(z_t, \gamma_t)\|^2
# \qquad\text{Salimans and Ho 2022}$$
#
# $$\text{bits/dim} = \frac{1}{D\ln 2}\Big(\underbrace{\mathbb{E}[-\ln p(x\mid z_0)]}_{\text{reconstruction}}
# + \underbrace{\tfrac12\int_0^1\gamma'(t)\,\mathbb{E}\|\varepsilon-\hat\varepsilon\|^2dt}_{\text{diffusion}}
# + \underbrace{\mathrm{KL}(q(z_1\mid x)\,\|\,\mathcal N(0,I))}_{\text{prior}}\Big)
# \qquad\text{Kingma et al. 2021 (11), (17)}$$

# %%
import os
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nelbo
from nelbo.course import check, play, turn
from nelbo.data import load
from nelbo.diffusion.denoiser import Velocity, clipped
from nelbo.diffusion.process import diffuse, posterior
from nelbo.diffusion.schedules import LinearGamma, gamma_range
from nelbo.nn.unet import Waves
from nelbo.report.pictures import beside, grid
from nelbo.theory.likelihoods import to_levels, to_unit
from nelbo.units import bits_per_dim, uniform_bits

LONG = os.environ.get("NELBO_COURSE_LONG") == "1"
# Change this and run again: the number of steps, and the channels at each resolution.
STEPS = 9000 if LONG else 2000
WIDTHS = (32, 64, 64) if LONG else (32, 64)
POWERS = (2, 3, 4, 5, 6) if LONG else (2, 3)  # of the Fourier features; finer levels need higher frequencies
BATCH = 32 if LONG else 64

dataset = load("mnist" if LONG else "digits")
images, test = dataset.split("train"), dataset.split("test")[: 1000 if LONG else 359]
print(f"{dataset.name}: {len(images):,} training images of {dataset.shape}, {dataset.levels} levels")

# %% [markdown]
# ## The network
#
# It is called as `network(z, gamma)`. Every block receives an embedding of $\gamma$.
# The input gets more channels: the Fourier features $\sin(2^n\pi z)$ and $\cos(2^n\pi z)$ make differences visible that are much
# smaller than the image (Kingma et al. 2021, appendix C). Without them, noise of the size of one level out of 256 is hard to see
# for the network. `nelbo.nn.unet.Waves` fades them where noise would randomise them.


# %%
class Block(nn.Module):
    """h + conv(SiLU(conv(SiLU(h)) · (1 + scale) + shift)), scale and shift from the embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return h + self.second(F.silu(self.first(F.silu(h)) * (1 + scale) + shift))


class UNet(nn.Module):
    """z, shape (B, 1, H, W), and γ, shape (B,) → v."""

    def __init__(self, widths: tuple[int, ...], embedding: int = 128) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(0.2, 3.0, embedding // 2))
        self.embedding = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())
        self.waves = Waves(POWERS, fading=True)
        self.stem = nn.Conv2d(1 + 2 * len(POWERS), widths[0], 3, padding=1)
        self.down = nn.ModuleList(Block(width, embedding) for width in widths)
        self.up = nn.ModuleList(Block(width, embedding) for width in widths)
        pairs = list(pairwise(widths))
        self.coarsen = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.refine = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        angle = gamma[:, None] * self.frequencies
        embedding = self.embedding(torch.cat([angle.sin(), angle.cos()], 1))
        h, skips = self.stem(torch.cat([z, *self.waves(z, gamma)], 1)), []
        for level, block in enumerate(self.down):
            h = block(h, embedding)
            if level < len(self.coarsen):
                skips.append(h)
                h = self.coarsen[level](h)
        for level in reversed(range(len(self.up))):
            if level < len(self.coarsen):
                h = skips.pop() + F.interpolate(self.refine[level](h), scale_factor=2.0)
            h = self.up[level](h, embedding)
        return self.head(h)


# %% [markdown]
# ## Training: Algorithm 1
#
# `gamma_range` is the useful range of $\gamma$ for this number of levels: with less noise the levels are known already, with more
# there is no image left. The schedule is linear in $\gamma$. Since
# $\|\varepsilon-\hat\varepsilon\|^2 = \bar\alpha\,\|v-\hat v\|^2$, the mean of $\|v-\hat v\|^2$ over $t$ then has nearly the
# weights of the bound where there is little noise, and larger ones where there is much, which samples profit from.

# %%
torch.manual_seed(0)
network, velocity = UNet(WIDTHS), Velocity()
schedule = LinearGamma(*gamma_range(dataset.levels))
optimiser = torch.optim.AdamW(network.parameters(), 2e-3)  # Adam with weight decay
decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS, pct_start=0.05)  # the rate rises for 5%, then falls
start, losses = time.monotonic(), []
for step in range(STEPS):
    x = to_unit(images[torch.randint(len(images), (BATCH,))], dataset.levels)
    t = (torch.arange(BATCH) + torch.rand(1, dtype=torch.float64)) / BATCH  # spread evenly over [0, 1]: less variance
    gamma, _ = schedule(t)
    eps = torch.randn_like(x)
    target = velocity.target(x, eps, gamma)
    with torch.autocast("cpu", torch.bfloat16):  # numbers of 16 bits inside the network: faster
        answer = network(diffuse(x, gamma, eps), gamma.float())
    loss = (answer.float() - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    decay.step()
    losses.append(loss.item())
    if (step + 1) % (STEPS // 5) == 0:
        print(f"step {step + 1:,}: {sum(losses[-200:]) / 200:.4f} after {time.monotonic() - start:.0f} s")
print(f"{sum(p.numel() for p in network.parameters()):,} parameters")

_, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
smooth = torch.tensor(losses).unfold(0, 50, 10).mean(1)
ax.semilogy(torch.arange(len(smooth)) * 10, smooth)
_ = ax.set(xlabel="step", ylabel=r"$\|v - \hat{v}\|^2$ per pixel")

# %% [markdown]
# ## Looking: Algorithm 2
#
# Each step asks the network for $v$, computes $\hat x$ (clamped to the range of pixels) and draws from the posterior
# $q(z_s\mid z_t, \hat x)$ of chapter 10. The last step, to $\gamma = -\infty$, gives $\hat x$ itself.

# %%
network.eval()


@torch.no_grad()
def walk_back(count: int, steps: int) -> list[Tensor]:
    """The images x̂ of every step, from noise to the samples."""
    gammas, _ = schedule(torch.linspace(1, 0, steps, dtype=torch.float64))
    gammas = torch.cat([gammas, torch.tensor([-torch.inf], dtype=torch.float64)])
    source = torch.Generator().manual_seed(1)
    z, seen = torch.randn(count, *dataset.shape, generator=source), []
    for now, then in pairwise(gammas):
        gamma_t, gamma_s = now.expand(count), then.expand(count)
        denoised = velocity.denoised(network(z, gamma_t.float()), z, gamma_t)
        x_hat = clipped(denoised, z, gamma_t).x_0
        z = posterior(x_hat, z, gamma_s, gamma_t).sample(torch.randn(z.shape, generator=source))
        seen.append(to_levels(x_hat, dataset.levels))
    return seen


frames = walk_back(count=32, steps=100)
play([grid(frame, dataset.levels, columns=8) for frame in frames[::2] + frames[-1:]], seconds=5.0)

# %%
beside(grid(test[:36], dataset.levels), "images", grid(walk_back(36, 100)[-1], dataset.levels), "samples")


# %% [markdown]
# With few steps the samples become blurred or broken.


# %%
def draw_samples(steps: int) -> None:
    """Samples of this number of steps."""
    shown = walk_back(10, steps)[-1]
    _, axes = plt.subplots(2, 5, figsize=(6, 2.6), layout="constrained")
    for ax, picture in zip(axes.flat, shown[:, 0], strict=True):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=dataset.levels - 1)
        ax.set_axis_off()


# Change this and run again: the number of steps of the sampler.
turn(draw_samples, steps=(5, 1, 200))

# %% [markdown]
# ## Scoring
#
# `nelbo.Diffusion` takes the network and the schedule, and computes the bound. The integral over $t$ is estimated from 32 values of
# $t$ for each image. The decoder is categorical, a probability for each level: at the least noise, the level that is nearest to $z$
# is nearly always the right one.

# %%
model = nelbo.Diffusion(network, dataset.shape, dataset.levels, schedule=schedule, predict="v", decoder="categorical")
model.eval()
bounds = [model.bound(batch, timesteps=32) for batch in test.split(250)]
nats = {name: float(torch.cat([bound.terms[name] for bound in bounds]).mean()) for name in bounds[0].terms}
for name, value in nats.items():
    print(f"{name:15s} {value:9.3f} nats per image")

# %% [markdown]
# ## Exercise
#
# What does your model need in **bits/dim** on these test images? Use the three terms in `nats` and the number of dimensions
# `dataset.dims`.

# %% tags=["exercise"]
score = None

# %% tags=["check"]
total = bits_per_dim(sum(nats.values()), dataset.dims)
check(score, total, "Sum the terms, divide by ln 2 to get bits, and by the number of dimensions (not of images).")

# %% [markdown]
# ## Is that good?
#
# The band below is about the result of this code as it is: 1.85 bits/dim on digits, and 1.07 on MNIST after seven minutes of
# training on two CPU cores. Change the number of steps or the widths, and leave the band: below it is better. (nelbo's own `vdm`
# reaches 0.97 on MNIST in ten minutes.)

# %%
BAND = (1.02, 1.13) if LONG else (1.78, 1.95)
print(f"the band: {BAND[0]:.2f} to {BAND[1]:.2f} bits/dim; a uniform code: {uniform_bits(dataset.levels):.2f}")
where = "better than" if total < BAND[0] else "worse than" if total > BAND[1] else "inside"
print(f"your model is {where} the band")

# %% [markdown]
# ## Where this goes
#
# `nelbo train ddpm --data mnist` and `nelbo train vdm --data mnist` do all of this with a better network, an optimiser for it, an
# average of the weights, and a law over the levels of each pixel. Chapter 17 gives your network to `nelbo.fit`, chapter 18 your
# images.
