# %% [markdown]
# # 5. The GAN and the Jensen–Shannon divergence
#
# A generative adversarial network has no likelihood, so no divergence from the data can be computed directly.
# It uses a second network instead, the discriminator $D$, which answers: is this an image or a sample?
# The value $V$ of the game measures how well $D$ answers.
# The best possible discriminator is known: it is the share of the data in the mixture of data and samples.
# With the best discriminator, the value is the Jensen–Shannon divergence of both distributions, times two, minus $2\ln 2$.
# Every other discriminator gives a smaller value, so the game gives a lower bound of the divergence.
# The generator takes steps that make this bound smaller.
# This is the weak point: the generator minimises a *lower* bound, and a weak discriminator shows it no difference at all.
# The Jensen–Shannon divergence is symmetric and at most $\ln 2$, even if both distributions share no outcome.
# There it is flat, and a generator far from the data gets no gradient from the original game.

# %% [markdown]
# ## The equations
#
# $$V(D) = \mathbb{E}_{x\sim p}[\ln D(x)] + \mathbb{E}_{x\sim q}[\ln(1 - D(x))] \qquad\text{Goodfellow et al. 2014 (1)}$$
#
# $$D^*(x) = \frac{p(x)}{p(x) + q(x)} \quad(2), \qquad
# V(D^*) = 2\,\mathrm{JS}(p, q) - 2\ln 2 \quad(6)$$
#
# $$\mathrm{JS}(p, q) = \tfrac12\mathrm{KL}(p\,\|\,m) + \tfrac12\mathrm{KL}(q\,\|\,m),
# \qquad m = \tfrac12(p + q) \qquad\text{Lin 1991}$$
#
# Here $p$ is the data and $q$ the generator. A discriminator is written by its logit $\ell = \ln D - \ln(1 - D)$, whose best
# value is $\ell^* = \ln p - \ln q$. For every $D$: $\;\tfrac12 V(D) + \ln 2 \le \mathrm{JS}(p, q) \le \ln 2$.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.distributions import Normal

import nelbo
from nelbo.course import check, turn
from nelbo.data import load
from nelbo.report.pictures import beside, grid
from nelbo.rng import Draws
from nelbo.theory.adversarial import INDIFFERENT_VALUE, discriminator_value, js_lower_bound, optimal_logit
from nelbo.theory.densities import js_density
from nelbo.theory.discrete import js_discrete

die, loaded = (torch.tensor(law, dtype=torch.float64) for law in ([1 / 6] * 6, [0.1] * 5 + [0.5]))
best = optimal_logit(die.log(), loaded.log())
print(f"V of the best discriminator of two dice   {discriminator_value(best, best, die, loaded):.5f} nats")
print(f"2 JS − 2 ln 2                             {2 * js_discrete(die, loaded) + INDIFFERENT_VALUE:.5f}")

# %% [markdown]
# ## Weaken the discriminator
#
# The data are $\mathcal N(0, 1)$, the generator draws $\mathcal N(\text{shift}, 1)$.
# The strength multiplies the best logit: 1 is the best discriminator, 0 always answers ½, a negative one answers the wrong way,
# and one above 1 is too sure of itself.


# %%
def draw_game(shift: float, strength: float) -> None:
    """Densities and discriminator, and the bound for every strength."""
    p, q = Normal(0.0, 1.0), Normal(shift, 1.0)
    x = torch.linspace(-4, 6, 400)
    logit = optimal_logit(p.log_prob(x), q.log_prob(x))
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.fill_between(x, p.log_prob(x).exp(), alpha=0.3, label="data p")
    left.fill_between(x, q.log_prob(x).exp(), alpha=0.3, label="generator q")
    left.plot(x, torch.sigmoid(logit), "k:", label="best D")
    left.plot(x, torch.sigmoid(strength * logit), "C3", label=f"D of strength {strength:.1f}")
    left.set(xlabel="x", ylim=(0, 1.05))
    left.legend(fontsize=8)

    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    at_p, at_q = (optimal_logit(p.log_prob(at), q.log_prob(at)) for at in (noise, noise + shift))
    strengths = torch.linspace(-0.5, 3, 71)
    bounds = [float(js_lower_bound(discriminator_value(s * at_p, s * at_q))) for s in strengths]
    right.plot(strengths, bounds, color="C3", label="½ V(D) + ln 2")
    right.axhline(float(js_density(p.log_prob, q.log_prob, around=(0.0, shift))), color="black", label="JS(p, q)")
    here = float(js_lower_bound(discriminator_value(strength * at_p, strength * at_q)))
    right.plot([strength], [here], "C3o")
    right.axhline(math.log(2), color="grey", linestyle=":", label="ln 2")
    right.set(xlabel="strength of D", ylabel="nats", ylim=(min(-0.4, here - 0.2), 0.8))
    right.legend(fontsize=8, loc="lower right")


# Change this and run again: the generator's shift, and the strength of D.
turn(draw_game, shift=(2.0, 0.1, 4.0), strength=(0.3, -0.5, 3.0))

# %% [markdown]
# ## A game on digits
#
# `nelbo.GAN` takes any generator and any critic, which returns the logit $\ell$. Its `loss` is the sum of both players' losses,
# each with a gradient to its own network only. Both players here are small, and the game lasts 2,500 steps.
# The curve is the bound ½ V + ln 2 on the current batch: near 0 the critic cannot tell samples from images.

# %%
torch.manual_seed(0)
LATENT, STEPS, BATCH = 16, 2500, 64
generator = nn.Sequential(
    nn.Linear(LATENT, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64), nn.Unflatten(1, (1, 8, 8))
)
critic = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1), nn.Flatten(0)
)
model = nelbo.GAN(generator, critic, shape=(1, 8, 8), levels=17, latent=LATENT, r1=1.0)
digits = load("digits")
images = digits.split("train")
optimiser = torch.optim.Adam(model.parameters(), 5e-4, betas=(0.0, 0.99))
curve = []
for step in range(STEPS):
    rows = torch.randint(len(images), (BATCH,))
    draws = Draws(seed=0, step=step, indices=range(BATCH), total=BATCH, device=model.device)
    optimiser.zero_grad()
    model.loss(images[rows], draws).mean().backward()
    optimiser.step()
    if step % 25 == 0:
        with torch.no_grad():
            real, fake = critic(images[rows] / 8.0 - 1), critic(model.draw(torch.randn(BATCH, LATENT)))
            curve.append(float(js_lower_bound(discriminator_value(real, fake))))

_, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
ax.plot(range(0, STEPS, 25), curve, label="½ V(D) + ln 2 of the batch")
ax.axhline(math.log(2), color="grey", linestyle=":", label="ln 2: no common image")
ax.set(xlabel="step", ylabel="nats", ylim=(-0.1, 0.8))
_ = ax.legend()

# %%
beside(grid(digits.split("test")[:36], 17), "real digits", grid(model.eval().sample(36), 17), "samples")

# %% [markdown]
# ## Exercise
#
# The data are a coin that shows heads with probability 0.6, the generator is a coin that shows heads with probability 0.7.
# Which value $V$, in nats, does the **best** discriminator reach?

# %% tags=["exercise"]
best_value = None

# %% tags=["check"]
data, fake = (torch.tensor(law, dtype=torch.float64) for law in ([0.6, 0.4], [0.7, 0.3]))
logit = optimal_logit(data.log(), fake.log())
check(
    best_value,
    discriminator_value(logit, logit, data, fake),
    "Put D* = p/(p + q) into V for both outcomes, or use V(D*) = 2 JS − 2 ln 2. It is a little more than −2 ln 2.",
    rtol=1e-5,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo train gan` plays this game with convolutions, and `nelbo score` of a GAN reports the bound of the divergence on images
# that the critic has not seen. `nelbo.theory.adversarial` also has the hinge loss, which bounds the total variation.
