# %% [markdown]
# # 4. The variational autoencoder
#
# A variational autoencoder is a model with a latent variable: draw $z$ from $\mathcal N(0, I)$, and decode it into an image.
# To train it, we need the posterior $p(z\mid x)$ of every image, as in chapter 2.
# Instead of one optimisation per image, one network computes the surrogate $q(z\mid x)$ of any image: the encoder.
# This is called amortised inference, because the cost of the network is shared by all images.
# The loss is the negative ELBO, and it has two terms.
# The reconstruction term is the number of nats that the image costs if $z$ is known.
# The KL term is the number of nats that $z$ costs: how far $q(z\mid x)$ is from the prior.
# The ELBO is a mean over random $z$, so its gradient is estimated: an estimator is a random number whose mean is the gradient.
# The reparameterised estimator writes $z = \mu(x) + \sigma(x)\,\varepsilon$ and takes the derivative through $z$, for fixed noise.
# The older score-function estimator weights the gradient of $\ln q(z)$; it has the same mean, and a far larger variance.

# %% [markdown]
# ## The equations
#
# $$-\ln p(x) \le \underbrace{\mathbb{E}_{q(z\mid x)}[-\ln p(x\mid z)]}_{\text{reconstruction}}
# + \underbrace{\mathrm{KL}\big(q(z\mid x)\,\|\,\mathcal N(0, I)\big)}_{\text{kl}}
# \qquad\text{Kingma and Welling 2014 (3)}$$
#
# Let $z = \mu + \sigma\varepsilon$ with $\varepsilon\sim\mathcal N(0,1)$, so $q = \mathcal N(\mu, \sigma^2)$. The gradient of $\mathbb{E}[f(z)]$ for a
# differentiable function $f$ is the mean of two different random numbers, which are two estimators of it:
#
# $$\nabla_\mu \mathbb{E}[f(z)] = \mathbb{E}\big[f'(\mu + \sigma\varepsilon)\big]
# \qquad\text{reparameterised, or pathwise (Kingma and Welling 2014, section 2.4)}$$
#
# $$\nabla_\mu \mathbb{E}[f(z)] = \mathbb{E}\big[f(z)\,\nabla_\mu\ln q(z)\big]
# = \mathbb{E}\Big[f(z)\,\frac{z-\mu}{\sigma^2}\Big] \qquad\text{score function (Williams 1992)}$$
#
# In statistics $\nabla_\mu\ln q(z)$ is called the score of $q$, hence the name. The second estimator does not need $f'$, only $f$.
# The mean of the score is 0, so a constant can be subtracted from $f$: this *baseline* changes the variance, and not the mean.

# %%
import tempfile
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

import nelbo
from nelbo.course import check, turn
from nelbo.data import load
from nelbo.rng import Draws
from nelbo.theory.densities import integral
from nelbo.theory.likelihoods import to_unit
from nelbo.theory.normal import Gaussian
from nelbo.theory.surrogates import Estimator, MeanField, leave_one_out, reparameterised, score_function

# %% [markdown]
# ## Two estimators of one gradient
#
# We take the model of chapter 2, $Z\sim\mathcal N(0,1)$, $X\mid Z\sim\mathcal N(Z,1)$, $x = 2$, and the surrogate
# $q = \mathcal N(\mu, 1)$ at $\mu = 0$. The exact gradient of the ELBO with respect to $\mu$ is $x - 2\mu = 2$.
# Here $f(z) = \ln p(x, z) - \ln q(z)$, whose mean is the ELBO. `MeanField` is this $q$, with $\sigma = 1$.
# `leave_one_out` is the score function with a baseline: from each sample's $f(z)$ it subtracts the mean of the other samples.

# %%
ESTIMATORS: dict[str, Estimator] = {
    "reparameterised": reparameterised,
    "score_function": score_function,
    "leave_one_out": leave_one_out,
}


def log_joint(z: Tensor) -> Tensor:
    """ln p(x = 2, z), for z of shape (S, 1)."""
    one = torch.ones((), dtype=torch.float64)
    prior, likelihood = Gaussian(0 * one, one), Gaussian(z[:, 0], one)
    return prior.log_prob(z[:, 0]) + likelihood.log_prob(2 * one)


@cache
def gradients(estimator: Estimator, samples: int, repetitions: int = 500) -> np.ndarray:
    """Independent estimates of ∂ELBO/∂μ at μ = 0, each from this number of samples."""
    found = []
    for repetition in range(repetitions):
        q = MeanField(torch.zeros(1, dtype=torch.float64))
        draws = Draws(seed=0, step=repetition, indices=range(samples), total=samples, device=q.mean.device)
        estimator(log_joint, q, draws).value.backward()
        found.append(q.mean.grad.item())
    return np.array(found)


def draw_gradients(estimator: str, samples: int) -> None:
    """The distribution of the estimates, over that of the reparameterised one."""
    _, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    bins = np.linspace(-8, 12, 51)
    for name in dict.fromkeys(["reparameterised", estimator]):
        found = gradients(ESTIMATORS[name], samples)
        ax.hist(found, bins, alpha=0.6, density=True, label=f"{name}: {found.mean():.2f} (s.d. {found.std():.2f})")
    ax.axvline(2.0, color="black", linewidth=1, label="exact gradient")
    ax.set(xlabel=f"estimate of ∂ELBO/∂μ from {samples} samples of z", ylabel="density")
    ax.legend()


# Change this and run again: the estimator, and the number of samples of z.
turn(draw_gradients, estimator=["score_function", "leave_one_out", "reparameterised"], samples=(4, 2, 64))

# %% [markdown]
# ## A VAE of digits with two latent numbers
#
# `nelbo.VAE` takes any encoder and decoder. The encoder returns $\mu$ and $\ln\sigma^2$ of $q(z\mid x)$; the decoder returns
# the parameters of $p(x\mid z)$, here a normal distribution per pixel, integrated over the bins of the 17 levels (chapter 14).
# `nelbo.fit` trains it in a run directory, a folder with the settings and the weights. Two latent numbers are too few for a good
# model, but they can be drawn.

# %%
LATENT = 2
torch.manual_seed(0)
encoder = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2 * LATENT)
)
decoder = nn.Sequential(
    nn.Linear(LATENT, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 128), nn.Unflatten(1, (2, 8, 8))
)
model = nelbo.VAE(encoder, decoder, shape=(1, 8, 8), levels=17, latent=LATENT, likelihood="normal")
run = nelbo.fit(model, "digits", steps=1500, device="cpu", out=Path(tempfile.mkdtemp()) / "vae")
print(run.score())

# %% [markdown]
# Above is the mean of $q(z\mid x)$ for every training digit: nobody told the encoder about the classes.
# Below is the decoder's mean image for a grid of $z$: each row and column moves one of the two numbers, over quantiles of
# $\mathcal N(0,1)$, so that every row and every column is equally probable.

# %%
digits = load("digits")
images, labels = digits.split("train"), digits.split_labels("train")
trained = run.model(device="cpu")
with torch.no_grad():
    codes = trained.encoder(to_unit(images, 17))[:, :LATENT]
    places = torch.special.ndtri(torch.linspace(0.04, 0.96, 12))
    grid = torch.cartesian_prod(-places, places).flip(1)
    drawn = trained.law(trained.decoder(grid)).expectation()

_, (above, below) = plt.subplots(2, 1, figsize=(6, 9), layout="constrained")
dots = above.scatter(*codes.T, c=labels, cmap="tab10", s=6)
above.set(xlabel="$z_1$", ylabel="$z_2$", title="mean of $q(z|x)$ of each image")
above.figure.colorbar(dots, ax=above, ticks=range(10))
below.imshow(drawn.reshape(12, 12, 8, 8).permute(0, 2, 1, 3).reshape(96, 96), cmap="gray", vmin=-1, vmax=1)
_ = below.set(xticks=[], yticks=[], title="decoded grid of $z$")

# %% [markdown]
# ## Exercise
#
# Let $f(z) = z^2$, $q = \mathcal N(\mu, 1)$ and $\mu = 1$. Both estimators of $\nabla_\mu\mathbb{E}[z^2] = 2\mu$ have the mean 2.
# What is the **variance** of each, for one sample of $z$?
# (The moments of $\varepsilon\sim\mathcal N(0,1)$ are $\mathbb{E}\varepsilon^2 = 1$, $\mathbb{E}\varepsilon^4 = 3$,
# $\mathbb{E}\varepsilon^6 = 15$; odd moments are 0. You can also simulate, but then you need a lot of samples.)

# %% tags=["exercise"]
variance_reparameterised = None
variance_score_function = None


# %% tags=["check"]
def variance(estimate: str) -> float:
    """Variance of one estimate at μ = 1, by quadrature over ε."""

    def moments(eps: Tensor) -> Tensor:
        z = 1 + eps
        value = 2 * z if estimate == "reparameterised" else z**2 * eps
        density = torch.distributions.Normal(0.0, 1.0).log_prob(eps).exp()
        return torch.stack([value * density, value**2 * density], 1)

    mean, square = integral(moments).tolist()
    return square - mean**2


check(
    (variance_reparameterised, variance_score_function),
    (variance("reparameterised"), variance("score_function")),
    "The reparameterised estimate is 2(1 + ε), the other (1 + ε)²ε. Var = E[estimate²] − 2².",
    rtol=0.02,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo train vae` trains a VAE with convolutions and more latent numbers. `run.score(form="iw", k=8)` gives the tighter
# importance-weighted bound. Chapter 7 puts several latent variables above each other.
