# %% [markdown]
# # 3. The autoencoder
#
# An autoencoder is a pair of networks: the encoder $F$ turns an image into a short code, the decoder $G$ turns the code back
# into an image.
# Both are trained to make the image and its reconstruction equal, in squared error.
# Since the code is shorter than the image, the networks cannot copy; they must find what images have in common.
# The size of the code decides how much is lost.
# If both networks are linear, the best solution is known: it is principal component analysis.
# The reconstruction is then the projection onto the directions in which the images vary most.
# The code itself is not unique: any invertible matrix between encoder and decoder changes the code and not the image.
# Networks that are not linear bend this plane into a curved surface, and lose less with the same code.
# An autoencoder has no likelihood: it does not say how probable an image is, and gives no rule for drawing a code.
# The next chapter mends both with one change, a distribution over codes.

# %% [markdown]
# ## The equations
#
# $$\min_{F, G}\; \mathbb{E}_x \left\|x - G(F(x))\right\|^2$$
#
# For linear $F$ and $G$ with a code of $k$ numbers, the minimum is the variance that the first $k$ principal components leave:
#
# $$\min_{F,G\ \text{linear}} \mathbb{E}_x \|x - G(F(x))\|^2 = \sum_{i > k} \lambda_i \qquad\text{Baldi and Hornik 1989}$$
#
# where $\lambda_1 \ge \lambda_2 \ge \dots$ are the eigenvalues of the covariance of the images. The columns of the decoder's
# matrix then span the first $k$ eigenvectors.

# %%
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import nelbo
from nelbo.course import check, turn
from nelbo.data import load
from nelbo.rng import Draws
from nelbo.theory.likelihoods import to_unit

digits = load("digits")  # 8×8 pixels with 17 levels, from scikit-learn; no download
images = digits.split("train")
x = to_unit(images, digits.levels).double()  # levels 0 … 16 as numbers from −1 to 1
print(f"{len(images)} images of {digits.dims} pixels; variance per pixel {x.flatten(1).var(0).mean():.3f}")


# %% [markdown]
# `nelbo.AE` takes any two networks. Its `loss` is $\|x - G(F(x))\|^2$ per pixel.
# A linear autoencoder is so small that L-BFGS, which uses curvature, finds the minimum in a few seconds.


# %%
@contextmanager
def in_float64() -> Iterator[None]:
    """New numbers have 64 bits: a small problem can be solved to many digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache  # a code of one size is trained once
@in_float64()
def linear_autoencoder(size: int, steps: int = 60) -> nelbo.AE:
    """A trained linear autoencoder with a code of this size."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(digits.dims, size))
    decoder = nn.Sequential(nn.Linear(size, digits.dims), nn.Unflatten(1, digits.shape))
    model = nelbo.AE(encoder, decoder, digits.shape, digits.levels, latent=size)
    draws = Draws(seed=0, step=0, indices=range(len(images)), total=len(images), device=model.device)
    model.eval()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = model.loss(images, draws).mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimiser.step(closure)
    return model


@in_float64()
def draw_reconstructions(size: int) -> None:
    """Digits, their reconstructions, and the directions of the decoder."""
    model = linear_autoencoder(size)
    with torch.no_grad():
        shown = model.decode(model.encode(x))
        directions = model.decode(torch.eye(size)[:8]) - model.decode(torch.zeros(1, size))
        error = (x - shown).square().mean()
    _, axes = plt.subplots(3, 8, figsize=(9, 3.6), layout="constrained")
    rows = [("images", x[:8], "gray"), (f"size {size}", shown[:8], "gray"), ("directions", directions, "coolwarm")]
    for row, (name, pictures, colours) in zip(axes, rows, strict=True):
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.set_frame_on(False)
        for ax, picture in zip(row, pictures[:, 0], strict=False):
            largest = 1.0 if colours == "gray" else float(pictures.abs().max())
            ax.imshow(picture, cmap=colours, vmin=-largest, vmax=largest)
        row[0].set_ylabel(name)
    print(f"code of {size} numbers: squared error per pixel {error:.4f}")


# Change this and run again: the size of the code.
turn(draw_reconstructions, size=(4, 1, 16))

# %% [markdown]
# ## A curved surface loses less
#
# The same code sizes, now with one hidden layer in each network, trained for 400 steps of Adam.
# The gap between both curves is what a plane cannot describe.


# %%
def curved_autoencoder(size: int, steps: int = 400) -> nelbo.AE:
    """A trained autoencoder with a hidden layer in both networks."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(digits.dims, 256), nn.SiLU(), nn.Linear(256, size))
    decoder = nn.Sequential(nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, digits.dims), nn.Unflatten(1, digits.shape))
    model = nelbo.AE(encoder, decoder, digits.shape, digits.levels, latent=size)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        rows = torch.randint(len(images), (256,))
        draws = Draws(seed=0, step=step, indices=range(256), total=256, device=model.device)
        optimiser.zero_grad()
        model.loss(images[rows], draws).mean().backward()
        optimiser.step()
    return model.eval()


@torch.no_grad()
def test_error(model: nelbo.AE) -> float:
    """The squared error per test pixel."""
    x_test = to_unit(digits.split("test"), digits.levels)
    return float((x_test - model.decode(model.encode(x_test))).square().mean())


sizes = [1, 2, 4, 8, 16]
errors = {}
for size in sizes:
    with in_float64():
        errors["linear", size] = test_error(linear_autoencoder(size))
    errors["one hidden layer", size] = test_error(curved_autoencoder(size))
_, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name in ("linear", "one hidden layer"):
    ax.plot(sizes, [errors[name, size] for size in sizes], "o-", label=name)
ax.set(
    xscale="log", xticks=sizes, xticklabels=sizes, xlabel="numbers in the code", ylabel="squared error per test pixel"
)
_ = ax.legend()

# %% [markdown]
# ## Exercise
#
# The trained linear autoencoder with a code of size $k$ spans a subspace of $k$ dimensions. Find this subspace **without
# training**: write a function that returns an orthonormal basis of it, of shape $(k, 64)$, from the images alone.
# (`torch.linalg.svd` or `torch.linalg.eigh` may help. The decoder has a bias, so subtract the mean first.)


# %% tags=["exercise"]
def subspace(x: Tensor, k: int) -> Tensor | None:
    """An orthonormal basis, shape (k, 64), of the subspace of a linear autoencoder of these images, shape (N, 64)."""
    return None


# %% tags=["check"]
trained = linear_autoencoder(3)
columns = torch.linalg.qr(trained.decoder[0].weight.detach()).Q  # (64, 3)
basis = subspace(x.flatten(1), 3)
check(
    None if basis is None else basis.T @ basis,  # the projection: it does not depend on the choice of the basis
    columns @ columns.T,
    "The subspace holds the directions of the largest variance, the first principal components of the centred images, "
    "and the basis must be orthonormal.",
    atol=2e-3,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo train ae` trains an autoencoder with convolutions. `nelbo.models.ae` also fits a Gaussian to the codes, to draw
# new ones.
