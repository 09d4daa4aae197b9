# %% [markdown]
# # 13. The U-Net
#
# The network of a diffusion model takes a noisy image and returns an image of the same size.
# It needs two things at once: the exact place of every pixel, and an understanding of the whole image.
# A U-Net has both: it goes down to coarser resolutions and up again.
# On the way down, each resolution has half the height and width of the one before, and more channels.
# At the coarsest resolution, self-attention lets every place look at every other one.
# On the way up, skip connections add the features of the way down, so that no detail is lost.
# The network must also know how noisy its input is: an embedding of $t$ or $\gamma$ shifts and scales every block.
# How far a pixel looks depends on the noise: a clean image needs its neighbours, a noisy one the whole picture.
# The last layer starts at zero, so that training begins with the answer zero, and not with a random one.
# The number of parameters grows with the square of the widths.

# %% [markdown]
# ## The equations
#
# A residual block adds to its input $h$ a small network, which the embedding $e(t)$ modulates:
#
# $$h \leftarrow h + \mathrm{conv}\Big(\mathrm{SiLU}\big((1 + s(e))\;\mathrm{conv}(\mathrm{SiLU}(h)) + b(e)\big)\Big)
# \qquad\text{He et al. 2016; scale and shift as in Dhariwal and Nichol 2021, section 3}$$
#
# Self-attention over all places of the coarsest map:
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\big(q k^\top/\sqrt d\big)\,v \qquad\text{Vaswani et al. 2017 (1)}$$
#
# A convolution with kernel $3\times3$ from $a$ to $b$ channels has $9ab + b$ parameters.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import nelbo
from nelbo.course import check, turn
from nelbo.diffusion.process import diffuse
from nelbo.nn.unet import UNet
from nelbo.theory.likelihoods import to_unit


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())


# %% [markdown]
# ## Its shape
#
# Each box is a stage: its height is the resolution, its width the number of channels, its colour the number of parameters.
# The arrows are skip connections.


# %%
def draw_network(width: int, resolutions: int, side: int) -> None:
    """The stages of a U-Net, and its parameters."""
    widths = tuple(min(2**k * width, 4 * width) for k in range(resolutions))
    with torch.device("meta"):  # shapes without memory
        network = UNet(1, 1, widths=widths, blocks=1, attention=(resolutions - 1,), dropout=0.0)
    heights = [side / 2**k for k in range(resolutions)]
    stages = list(zip(network.down, heights, strict=True))
    stages += list(zip(list(network.up)[-2::-1], heights[-2::-1], strict=True))
    columns = [*widths, *widths[-2::-1]]
    most = max(parameters(stage) for stage, _ in stages)
    _, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
    place, gap, tops = 0.0, 0.35 * max(widths), []
    for (stage, height), channels in zip(stages, columns, strict=True):
        colour = plt.get_cmap("viridis")(0.15 + 0.8 * parameters(stage) / most)
        ax.add_patch(Rectangle((place, -height / 2), channels, height, facecolor=colour, edgecolor="black"))
        words = f"{channels} ch.\n{height:g}×{height:g}\n{parameters(stage):,}"
        ax.text(place + channels / 2, -height / 2 - 0.04 * side, words, ha="center", va="top", fontsize=8)
        tops.append((place + channels / 2, height / 2))
        place += channels + gap
    for left, right in zip(tops[: resolutions - 1], tops[: resolutions - 1 : -1], strict=True):
        curve = {"arrowstyle": "->", "color": "C3", "connectionstyle": "arc3,rad=-0.15"}
        ax.annotate("", right, left, arrowprops=curve)
    ax.set(xlim=(-gap, place), ylim=(-0.95 * side, 0.9 * side))
    ax.set_axis_off()
    ax.set_title(f"{parameters(network):,} parameters; time embedding {parameters(network.embedding):,}")


# Change this and run again: the channels of the finest resolution, the number of resolutions, and the side of the image.
turn(draw_network, width=(32, 8, 128), resolutions=(3, 2, 5), side=(32, 16, 128))

# %% [markdown]
# ## How far does a pixel look?
#
# We train a `ddpm` on digits for 250 steps, which takes some seconds, and ask: if one input pixel changes a little, how much does
# the denoised **centre** pixel change? The picture is the mean of $|\partial \hat x_0^{\text{centre}}/\partial x_t|$ over test
# images. With little noise the network reads the pixel itself. With more noise it asks the neighbours, and then the whole image.

# %%
run = nelbo.train("ddpm", "digits", steps=250, device="cpu", out=Path(tempfile.mkdtemp()) / "ddpm")
model = run.model(device="cpu")
assert isinstance(model, nelbo.Diffusion)
x = to_unit(run.dataset.split("test")[:64], 17)
gammas = model.timeline.chain()


def sensitivity(t: int) -> Tensor:
    """The mean of |∂x̂_0 of the centre/∂x_t|, shape (8, 8)."""
    gamma = gammas[t].expand(len(x))
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    z = diffuse(x, gamma, eps).requires_grad_()
    model.denoiser(z, gamma).x_0[:, 0, 4, 4].sum().backward()
    return z.grad[:, 0].abs().mean(0)


_, axes = plt.subplots(1, 5, figsize=(10, 2.6), layout="constrained")
for ax, t in zip(axes, (1, 100, 300, 600, 900), strict=True):
    seen = sensitivity(t)
    ax.imshow(seen, cmap="magma", vmin=0)
    ax.set(xticks=[], yticks=[], title=f"t = {t}")
    ax.set_xlabel(f"own pixel {100 * float(seen[4, 4] / seen.sum()):.0f}%")

# %% [markdown]
# ## Inside
#
# Some feature maps of a noisy digit: on the way down, at the coarsest resolution, and on the way up.

# %%
features: dict[str, Tensor] = {}
hooks = []
looked_at = {"down, 8×8": model.network.down[0], "coarsest": model.network.up[-1], "up, 8×8": model.network.up[0]}
for name, module in looked_at.items():
    hooks.append(module.register_forward_hook(lambda _, __, output, name=name: features.update({name: output})))
gamma = gammas[100].expand(1)
z = diffuse(x[:1], gamma, torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)))
with torch.no_grad():
    denoised = model.denoiser(z, gamma)
for hook in hooks:
    hook.remove()

_, axes = plt.subplots(3, 9, figsize=(10, 3.6), layout="constrained")
for row, (name, maps) in zip(axes, features.items(), strict=True):
    strongest = maps[0].flatten(1).std(1).argsort(descending=True)[:8]
    for ax, channel in zip(row[1:], strongest, strict=True):
        ax.imshow(maps[0, channel], cmap="coolwarm")
    row[1].set_ylabel(name)
for ax, picture, title in zip(
    axes[:, 0], (x[0, 0], z[0, 0], denoised.x_0[0, 0]), ("image", "input", "x̂₀"), strict=True
):
    ax.imshow(picture, cmap="gray", vmin=-1, vmax=1)
    ax.set_ylabel(title)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])

# %% [markdown]
# ## Exercise
#
# How many parameters has the network of nelbo's default `ddpm` for images of 1×28×28 with 256 levels, such as MNIST?
# The settings for a shape are `DDPMOptions().resolved(shape)`, and `DDPM.from_options(settings, shape, levels)` is the model
# (both in `nelbo.models.ddpm`).

# %% tags=["exercise"]
count = None

# %% tags=["check"]
from nelbo.models.ddpm import DDPM, DDPMOptions

shape = (1, 28, 28)
check(
    count,
    parameters(DDPM.from_options(DDPMOptions().resolved(shape), shape, 256)),
    "Sum p.numel() over model.parameters(). The network sees the noisy image beside the mean of its cluster.",
    rtol=0,
    atol=0,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo.nn.unet` is the network, `nelbo.nn.blocks` its parts. `nelbo train ddpm --widths 64 128 128` changes it from the command
# line, and chapter 17 replaces it by your own.
