"""Variational diffusion models (Kingma et al. 2021): continuous time through γ(t) = −ln SNR(t), likelihoods first.

The bound has three terms: the prior KL(q(z_1|x) ‖ N(0, I)), the reconstruction E[−ln p(x|z_0)] with a categorical
decoder over the levels, and the diffusion term L_∞ of :mod:`nelbo.bounds.continuous` (or L_T in T steps).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from nelbo.bounds import VARIANCES, Bound, LossProfile, crossing, stratified
from nelbo.bounds.continuous import continuous_weight, discrete_weight, latent_prior_term, squared_error
from nelbo.diffusion import Denoised, Process
from nelbo.diffusion.continuous import diffuse, from_velocity, from_x_0, on_grid, rates
from nelbo.errors import InputError
from nelbo.flow import ProbabilityFlow
from nelbo.likelihoods import to_default_dtype, to_unit
from nelbo.models._chain import ChainBound
from nelbo.models._diffusion import Chain, DiffusionModel
from nelbo.models.forms import Estimator, Forms
from nelbo.nn import UNetOptions
from nelbo.nn.gamma import LearnedGamma, LinearGamma, split_gradient
from nelbo.nn.levels import OUTPUTS, Posterior, log_law
from nelbo.rng import Draws, Stream
from nelbo.units import bits_per_dim

PROFILE_STEPS = 1024
"""t is drawn by a loss profile over this many pieces of [0, 1]."""
DECODER_SHARE = 32
"""One image in this many also trains the decoder, at t = 0."""
FAR_BETWEEN = 6.0
"""Standard deviations of z_0 from a level to the middle of two, from where on there is no density between levels."""
FINE_STEPS = 1000
"""The steps of ancestral sampling where the bound is in continuous time."""


class VDMOptions(UNetOptions):
    """The settings of a VDM."""

    timesteps: Annotated[int, Field(ge=0, le=100_000)] = 0
    "T, the number of steps of the bound that is scored; 0 is continuous time."
    gamma: Literal["linear", "learned"] = "linear"
    "γ(t) = −ln SNR(t): a straight line, or monotone and learned."
    gamma_min: Annotated[float, Field(ge=-30, le=0)] = -13.3
    "γ(0), how little noise z_0 has."
    gamma_max: Annotated[float, Field(ge=0, le=30)] = 8.0
    "γ(1), how little signal z_1 has."
    head: Literal["levels", "v"] = "levels"
    "What the network gives: a law over the levels of each pixel, or v."
    fourier: tuple[Annotated[int, Field(ge=0, le=12)], ...] = (2, 3, 4, 5, 6)
    "Powers n of the features sin(2ⁿ π x) and cos(2ⁿ π x) that the network sees beside z: their means given z."
    every_decoder: Annotated[float, Field(ge=0, le=1000)] | None = None
    "λ: training adds λ E[−ln p(x|z_t)], a decoder at every t; 0.3 if left out, 0 with --gamma learned or --head v."

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The same settings with everything that depends on the data, or on other settings, filled in.

        Raises:
            InputError: a λ above 0 where γ is learned, which it would change, or where there is no law over levels.
        """
        possible = self.head == "levels" and self.gamma == "linear"
        if self.every_decoder and not possible:
            raise InputError("--every-decoder", "needs --head levels and --gamma linear; set it to 0")
        share = (0.3 if possible else 0.0) if self.every_decoder is None else self.every_decoder
        return super().resolved(shape).model_copy(update={"every_decoder": share})


class VDM(DiffusionModel):
    """A U-Net, γ(t), and the bound between them.

    Args:
        options: the settings, resolved for ``shape``.
        shape: (C, H, W) of the images.
        levels: L, the number of values a pixel can take.

    Raises:
        InputError: a network that cannot be built.
    """

    family = "vdm"

    def __init__(self, options: VDMOptions, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape, levels)
        self.options = options
        self.learned = options.gamma == "learned"
        kind = LearnedGamma if self.learned else LinearGamma
        self.gamma: LearnedGamma | LinearGamma = kind(options.gamma_min, options.gamma_max)
        outputs = OUTPUTS if options.head == "levels" else 1
        self.network = options.network(shape[0], shape[0] * outputs, fading=True)
        # A learned shape of γ does what the profile would do: it evens out the loss over t.
        self.profile = LossProfile(PROFILE_STEPS, floor=1.0 if self.learned else 0.1)

    # Prediction

    def ask(self, z: Tensor, gamma: Tensor) -> Tensor:
        """The network's output at z, shape (B, C, H, W), and γ, shape (B,)."""
        output: Tensor = self.network(z, ((gamma + 20.0) / 40.0).to(z.dtype), gamma)
        return to_default_dtype(output)

    def denoise(self, z: Tensor, gamma: Tensor) -> Denoised:
        """x̂_0 and ε̂ of z at γ, shape (B,)."""
        return self.read(self.ask(z, gamma), z, gamma)

    def read(self, output: Tensor, z: Tensor, gamma: Tensor) -> Denoised:
        """x̂_0 and ε̂, from what the network gave at z and γ."""
        if self.options.head == "v":
            return from_velocity(output, z, gamma)
        return from_x_0(self.posterior(output, z, gamma).mean(), z, gamma)

    def posterior(self, output: Tensor, z: Tensor, gamma: Tensor) -> Posterior:
        """P(k|z) of every pixel, from what a network with a head over levels gave at z and γ."""
        return Posterior.of(output, z, *rates(gamma, z), self.levels)

    def decoder_nll(self, output: Tensor, x: Tensor, z_0: Tensor, gamma: Tensor) -> Tensor:
        """−ln p(x|z_0) of each image at γ, in nats, a law over all levels of each pixel  [VDM (8)].

        With the head over levels it is the network's law given z_0; without, the likelihood N(z_0; √ᾱ_0 x, 1 − ᾱ_0)
        itself, normalised over the levels.
        """
        signal, noise = rates(gamma, z_0)
        if self.options.head == "levels":
            log_p = log_law(output, z_0, signal, noise, self.levels)
        else:
            every = to_unit(torch.arange(self.levels, device=z_0.device), self.levels)
            distance = (z_0 / signal)[..., None] - every
            log_p = (-0.5 * (signal / noise).square()[..., None] * distance.square()).log_softmax(-1)
        return -log_p.gather(-1, x.long()[..., None]).flatten(1).sum(1)

    # Training

    def loss(self, x: Tensor, draws: Draws) -> Tensor:
        """The bound in nats per dimension, from one t per image; one image in 32 also trains the decoder, at t = 0.

        With λ, ``every_decoder``, the mean of λ −ln p(x|z_t) is added, over the same t: a bound that stopped at t would
        have the decoder there, and the laws that cost it least have the best x̂_0 as well. A squared error sees only
        their means, and while they are rough it tells less of what is wrong with them.

        A learned γ has its end points trained with the bound, and its shape to lower the bound's variance: the
        gradient of E[loss²], for each image 2 · loss times that of the loss (Kingma et al. 2021, section 5.1).
        """
        x_0 = to_unit(x, self.levels)
        eps = draws.normal(Stream.TRAIN_NOISE, self.shape)
        index, weight = self.profile.draw(draws.spread(Stream.TRAIN_TIME))
        t = (index - 1 + draws.uniform(Stream.TRAIN_PLACE)) / PROFILE_STEPS
        (gamma, slope), tell = split_gradient(self.gamma, t)
        ends = self.gamma(t.new_tensor([0.0, 1.0]))[0]
        trained = self.learned or self.options.head == "levels"  # else the decoder has nothing to learn
        few = torch.tensor([trained and i % DECODER_SHARE == 0 for i in draws.indices], device=x.device)
        gamma_0 = ends[0].expand(int(few.sum()))
        z, z_0 = diffuse(x_0, gamma, eps), diffuse(x_0[few], gamma_0, eps[few])
        output, at_0 = torch.split(self.ask(torch.cat([z, z_0]), torch.cat([gamma, gamma_0])), [len(z), len(z_0)])
        posterior = self.posterior(output, z, gamma) if self.options.head == "levels" else None
        seen = from_x_0(posterior.mean(), z, gamma) if posterior else from_velocity(output, z, gamma)
        loss = continuous_weight(slope) * squared_error(eps, seen.eps).double() / self.dims
        if self.training:
            self.profile.update(*(self.gather_batch(rows.detach()) for rows in (index, loss)))
        loss = loss * weight
        tell(loss.detach())
        nll = self.decoder_nll(at_0, x[few], z_0, gamma_0).double()
        loss = loss.masked_scatter(few, loss[few] + DECODER_SHARE * nll / self.dims)
        if self.learned:
            loss = loss + latent_prior_term(x_0, ends[1]) / self.dims
        if posterior and self.options.every_decoder:
            loss = loss + self.options.every_decoder * posterior.nll(x).double() / self.dims
        return to_default_dtype(loss)

    # Scoring

    @property
    def more_forms(self) -> str:
        """In continuous time there are no trajectories."""
        return "" if self.options.timesteps else "; in steps there are more, see --T"

    @property
    def default_timesteps(self) -> int:
        return min(8, self.options.timesteps or 8)

    @property
    def all_timesteps(self) -> int | None:
        """T, or None in continuous time."""
        return self.options.timesteps or None

    @property
    def forms(self) -> Forms:
        """The denoising form; in T steps all that a chain has."""
        own = {"denoising": Estimator(self.estimate)}
        steps = self.chain_bound.forms if self.options.timesteps else {}
        flow = {name: form for name, form in self.flow_forms.items() if name not in self.why_not_forms}
        return Forms(
            self.family,
            {**steps, **own, **flow},
            self.default_timesteps,
            self.all_timesteps,
            self.more_forms,
            self.why_not_forms,
        )

    @property
    def why_not_forms(self) -> Mapping[str, str]:
        """A law over levels is spikes as narrow as the noise: of a z between them the flow's density says that alone.

        With a, half a spacing in standard deviations of z_0, a uniform z costs a²/6 nats per pixel, whatever the image.
        """
        a = crossing(on_grid(self.ends()[:1].cpu()), self.levels)
        if self.options.head != "levels" or a <= FAR_BETWEEN:
            return {}
        why = f"a uniform z lies up to {a:.0f} standard deviations from every level, which costs {a**2 / 6:.0f} nats"
        return {"ode-uniform": f"{why} per pixel whatever the image, and hides all else; use ode"}

    def in_steps(self, T: int) -> Self:
        """The same network and γ, scored with t on the grid 0, 1/T, …, 1: a DDPM of T + 1 steps."""
        model = copy.copy(self)
        model.options = self.options.model_copy(update={"timesteps": T})
        return model

    def ends(self) -> Tensor:
        """γ(0) and γ(1), float64, without gradient."""
        return self.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device))[0].detach()

    def decode(self, x: Tensor, x_1: Tensor) -> Tensor:
        gamma_0 = self.ends()[0].expand(len(x))
        return self.decoder_nll(self.ask(x_1, gamma_0), x, x_1, gamma_0)

    @property
    def chain_bound(self) -> ChainBound:
        """The chain of T steps whose bound is scored; z_0 is its x_1, so it has T + 1 steps to the image."""
        chain, variance = self.chain(None), VARIANCES[self.reverse_variance]
        return ChainBound(chain.process, variance, chain.denoiser, self.decode, self.levels, self.shape)

    def flow(self) -> ProbabilityFlow:
        first, last = self.ends().tolist()
        return ProbabilityFlow(lambda z, gamma: self.denoise(to_default_dtype(z), gamma), first, last)

    def estimate(self, x: Tensor, draws: Draws, timesteps: int) -> Bound:
        """prior + diffusion + reconstruction  [VDM (11)]: stratified t for the diffusion term, one draw of z_0."""
        x_0 = to_unit(x, self.levels)
        eps = draws.normal(Stream.SCORE_NOISE, (timesteps + 1, *self.shape))
        ends = self.ends()
        terms = {"reconstruction": self.decode(x, diffuse(x_0, ends[0].expand(len(x)), eps[:, 0]))}
        terms["diffusion"] = torch.zeros_like(terms["reconstruction"])
        t, share = self.times(draws.uniform(Stream.SCORE_TIME, (timesteps, 2)))
        for k in range(timesteps):
            gamma, weight = self.weighted(t[:, k])
            noise = eps[:, k + 1]
            error = squared_error(noise, self.denoise(diffuse(x_0, gamma, noise), gamma).eps)
            terms["diffusion"] += (share[:, k] * weight).to(error.dtype) * error
        terms["prior"] = latent_prior_term(x_0, ends[1])
        return Bound(terms, evaluations=1 + timesteps)

    def over_t(self, x: Tensor, draws: Draws, pieces: int) -> tuple[Tensor, Tensor]:
        if self.options.timesteps:
            return self.chain_bound.over_t(x, draws, pieces)
        x_0, parts = to_unit(x, self.levels), []
        noise = draws.normal_iter(Stream.SCORE_NOISE, self.shape)
        next(noise)  # the reconstruction's
        u = draws.uniform(Stream.SCORE_TIME, (pieces,))
        for k in range(pieces):
            gamma, weight = self.weighted((k + u[:, k]) / pieces)
            eps = next(noise)
            error = squared_error(eps, self.denoise(diffuse(x_0, gamma, eps), gamma).eps).double()
            parts.append(weight * error / pieces)
        return torch.linspace(0, 1, pieces + 1, dtype=torch.float64), torch.stack(parts, 1)

    def gamma_at(self, t: Tensor) -> Tensor:
        return super().gamma_at(t) if self.options.timesteps else self.gamma(t.to(self.device))[0].detach().cpu()

    def times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """t and what each stands for, from uniforms (B, K, 2): i/T in T steps, else where the profile has the loss.

        E[Σ_k share_k f(t_k)] is the sum of f over i/T, or its integral over [0, 1].
        """
        T = self.options.timesteps
        if T:
            index, share = stratified(u[:, :, 0], torch.full((T,), 1.0 / T, dtype=torch.float64))
            return (index + 1).double() / T, share
        edges = self.profile.edges.to(u) / PROFILE_STEPS
        piece, share = stratified(u[:, :, 0], self.profile.probabilities())
        width = (edges[1:] - edges[:-1])[piece]
        return edges[piece] + width * u[:, :, 1], share * width

    def weighted(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ at t and the weight of ‖ε − ε̂‖² there: ½ γ′(t), or ½ expm1(γ_t − γ_s) in T steps."""
        gamma, slope = self.gamma(t)
        if not self.options.timesteps:
            return gamma, continuous_weight(slope)
        return gamma, discrete_weight(self.gamma(t - 1.0 / self.options.timesteps)[0], gamma)

    def facts(self) -> dict[str, object]:
        """The ends of γ, and what the last one costs: the prior term where every pixel is at ±1."""
        ends = self.ends().cpu()
        prior = float(latent_prior_term(torch.ones(1, *self.shape, dtype=torch.float64), ends[1]))
        return {
            "gamma_at_0": float(ends[0]),
            "gamma_at_1": float(ends[1]),
            "prior_bits_per_dim_at_most": bits_per_dim(prior, self.dims),
        }

    # Sampling

    def chain(self, steps: int | None) -> Chain:
        T = self.options.timesteps
        count = steps or (T + 1 if T else FINE_STEPS)  # T steps from z_1 to z_0, and one to the image
        grid = torch.linspace(0, 1, count, dtype=torch.float64, device=self.device)
        gamma = self.gamma(grid)[0].detach()

        def denoise(z: Tensor, t: Tensor) -> Denoised:
            return self.denoise(z, gamma[t - 1])

        return Chain(Process(on_grid(gamma.cpu())), denoise, list(range(count, -1, -1)))


OPTIONS, MODEL = VDMOptions, VDM
