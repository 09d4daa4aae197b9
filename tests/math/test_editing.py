"""Constraints and the methods that draw under them, against the exact conditional law of Gaussian data and mixtures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from math_helpers import assert_mean, gammas_of, gaussians, random_cov
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from nelbo.diffusion.denoiser import Denoiser, denoiser_of
from nelbo.diffusion.process import CLEAN
from nelbo.diffusion.samplers import DDIM, trajectory
from nelbo.diffusion.spacing import descending
from nelbo.editing.constraints import BlockMeans, Constraint, Mask, Matrix, Seen
from nelbo.editing.methods import RULES, MomentMatching, Numbers, PseudoinverseGuidance, Replacement, solve
from nelbo.editing.particles import METHODS, TwistedParticles, log_ratio, resampled, systematic
from nelbo.errors import InputError
from nelbo.rng import Draws
from nelbo.theory.conditioning import Conditional, MixtureData, conditional, kl_gaussian
from nelbo.theory.exact import GaussianData
from nelbo.theory.normal import Gaussian

SHAPE, D = (1, 2, 2), 4
ONE = torch.eye(D, dtype=torch.float64)
MEAN, COV = torch.tensor([0.4, -0.7, 0.6, 0.1], dtype=torch.float64), 0.3 * random_cov(D, seed=1)
DATA = GaussianData(MEAN, COV)
SEEN_PIXELS = torch.tensor([[[True, True], [False, False]]])
CONSTRAINTS: dict[str, Constraint] = {
    "mask": Mask(SEEN_PIXELS),
    "block means": BlockMeans(2),
    "matrix": Matrix(gaussians(2, D, seed=7), SHAPE),
}
"""A constraint added here is tested by being here."""
every_constraint = pytest.mark.parametrize("constraint", list(CONSTRAINTS))
every_method = pytest.mark.parametrize("name", list(METHODS))
X = DATA.sample(gaussians(1, D, seed=3))


def images(rows: Tensor) -> Tensor:
    """Vectors as images of 2 × 2 pixels."""
    return rows.reshape(-1, *SHAPE)


def on_images(denoise: object) -> Denoiser:
    """The denoiser of an oracle on images."""
    return denoiser_of(lambda z, gamma: images(denoise(z.flatten(1), gamma)))  # type: ignore[operator]


EXACT = on_images(DATA.denoise)


def matrix_of(constraint: Constraint) -> Tensor:
    """A as a matrix, shape (m, D), from its effect on every unit vector; rows of zeros are left out."""
    rows = constraint.measure(images(ONE)).flatten(1).T
    return rows[rows.abs().sum(1) > 0]


def numbers(n: int, seed: int = 0, first: int = 0) -> Numbers:
    """The random numbers of n images."""
    return lambda k: Draws(seed, k, range(first, first + n), n, torch.device("cpu"))


def seen_by(constraint: Constraint, n: int, x: Tensor = X) -> Seen:
    """n copies of what is seen of an image."""
    return Seen.of(constraint, constraint.measure(images(x.expand(n, D))))


def truth(constraint: Constraint, mean: Tensor = MEAN, cov: Tensor = COV) -> Conditional:
    """The exact law given what is seen of X."""
    A = matrix_of(constraint)
    return conditional(mean, cov, A, A @ X[0])


def drawn(
    name: str, n: int, steps: int, denoiser: Denoiser = EXACT, constraint: str = "mask", **how: int | str
) -> Tensor:
    """n images by a method, shape (n, D)."""
    grid = descending(gammas_of("cosine", 1000), steps)
    seen = seen_by(CONSTRAINTS[constraint], n)
    *_, last = METHODS[name](**how).draw(  # type: ignore[arg-type]
        denoiser, seen, grid, numbers(n), False
    )
    assert last.gamma == CLEAN
    return last.z.flatten(1)


def assert_law(rows: Tensor, mean: Tensor, cov: Tensor, sigmas: float = 4.0, bias: float = 0.0) -> None:
    """First and second moments, within ``sigmas`` standard errors and a stated bias."""
    assert_mean(rows, mean, sigmas, bias)
    away = rows - mean
    assert_mean((away[:, :, None] * away[:, None, :]).flatten(1), cov.flatten(), sigmas, bias)


# Constraints


@every_constraint
def test_the_pseudo_inverse_is_numpys_and_the_projection_is_orthogonal(constraint: str) -> None:
    """1e-12: round-off of products of small matrices."""
    kind, x, other = CONSTRAINTS[constraint], images(gaussians(5, D, seed=1)), images(gaussians(5, D, seed=2))
    A = matrix_of(kind)
    expected = (x.flatten(1) @ A.T) @ torch.from_numpy(np.linalg.pinv(A.numpy())).T
    torch.testing.assert_close(kind.project(x).flatten(1), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(kind.project(kind.project(x)), kind.project(x), atol=1e-12, rtol=0)
    one, two = (kind.project(x) * other).sum(), (x * kind.project(other)).sum()
    assert float(one) == pytest.approx(float(two), abs=1e-12)
    seen = Seen.of(kind, kind.measure(x))
    torch.testing.assert_close(kind.measure(seen.fulfilled(other)), kind.measure(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("seen", "said"), [(torch.ones(1, 2, 2), "no pixel"), (torch.zeros(1, 2, 2), "every pixel")])
def test_a_mask_hides_something_and_not_all(seen: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=f"mask: hides {said}"):
        Mask(seen.bool())


# The oracles


def test_the_conditional_law_is_that_of_the_precision_matrix() -> None:
    """Given a part of a Gaussian, the rest has the precision Λ_hh, and the mean m_h − Λ_hh⁻¹ Λ_hs (x_s − m_s)."""
    found, precision = truth(CONSTRAINTS["mask"]), torch.linalg.inv(COV)
    cov = torch.linalg.inv(precision[2:, 2:])
    torch.testing.assert_close(found.cov[2:, 2:], cov, atol=1e-10, rtol=0)
    mean = MEAN[2:] - cov @ precision[2:, :2] @ (X[0, :2] - MEAN[:2])
    torch.testing.assert_close(found.mean[2:], mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.mean[:2], X[0, :2], atol=1e-10, rtol=0)
    joint = MultivariateNormal(MEAN, COV).log_prob(X[0])
    rest = MultivariateNormal(mean, cov).log_prob(X[0, 2:])
    assert float(found.log_evidence) == pytest.approx(float(joint - rest), abs=1e-10)


OTHER = torch.tensor([0.0, -0.4, -0.9, -0.6], dtype=torch.float64)
MODES = [GaussianData(MEAN, 0.4 * COV), GaussianData(OTHER, 0.1 * random_cov(D, seed=2))]
MIXTURE = MixtureData(torch.tensor([0.3, 0.7]), MODES)


def test_the_mixtures_denoiser_is_tweedies_formula_on_its_density() -> None:
    """E[x_0|z] = (z + (1 − ᾱ) ∇ln p(z))/√ᾱ, with torch's density of z and autograd."""
    z, gamma = gaussians(6, D, seed=4), torch.linspace(-3, 3, 6).double()
    for row, at in zip(z, gamma, strict=True):
        signal = torch.sigmoid(-at)
        parts = MultivariateNormal(
            torch.stack([signal.sqrt() * part.mean for part in MODES]),
            torch.stack([signal * part.cov + (1 - signal) * ONE for part in MODES]),
        )
        law = MixtureSameFamily(Categorical(MIXTURE.weights), parts)
        place = row.clone().requires_grad_()
        (slope,) = torch.autograd.grad(law.log_prob(place), place)
        expected = (row + (1 - signal) * slope) / signal.sqrt()
        torch.testing.assert_close(MIXTURE.denoise(row[None], at[None])[0], expected, atol=1e-9, rtol=0)


@every_constraint
def test_the_mixtures_conditional_law_is_bayes_rule(constraint: str) -> None:
    """p(x) = p(y) p(x|y) at several x with the same A x, with torch's densities in coordinates of the rest."""
    A = matrix_of(CONSTRAINTS[constraint])
    rest = torch.linalg.svd(A).Vh[len(A) :]  # orthonormal, and A rest.T = 0
    found = MIXTURE.conditional(A, A @ X[0])
    parts = MultivariateNormal(
        torch.stack([rest @ part.mean for part in found.parts]),
        torch.stack([rest @ part.cov @ rest.T for part in found.parts]),
    )
    given = MixtureSameFamily(Categorical(found.weights), parts)
    whole = MixtureSameFamily(
        Categorical(MIXTURE.weights),
        MultivariateNormal(torch.stack([part.mean for part in MODES]), torch.stack([part.cov for part in MODES])),
    )
    x = X[0] + 0.3 * gaussians(6, len(rest), seed=9) @ rest
    evidence = whole.log_prob(x) - given.log_prob(x @ rest.T)
    torch.testing.assert_close(evidence, evidence[:1].expand(6), atol=1e-9, rtol=0)
    samples = given.sample((200_000,))
    assert_mean(samples, rest @ found.mean, 4)
    away = samples - rest @ found.mean
    assert_mean((away[:, :, None] * away[:, None]).flatten(1), (rest @ found.cov @ rest.T).flatten(), 4)


def test_the_divergence_of_gaussians_is_torchs() -> None:
    q, p = (MultivariateNormal(m, c) for m, c in ((MEAN, COV), (-MEAN, random_cov(D, seed=2))))
    expected = torch.distributions.kl_divergence(q, p)
    assert float(kl_gaussian(MEAN, COV, -MEAN, random_cov(D, seed=2))) == pytest.approx(float(expected), abs=1e-10)


# What every method promises


@every_constraint
@every_method
@pytest.mark.parametrize("clip", [False, True])
def test_what_is_seen_stays_and_an_image_does_not_depend_on_the_others(constraint: str, name: str, clip: bool) -> None:
    kind, grid = CONSTRAINTS[constraint], descending(gammas_of("cosine", 1000), 5)
    *_, many = METHODS[name]().draw(EXACT, seen_by(kind, 5), grid, numbers(5), clip)
    expected = kind.measure(images(X)).expand_as(kind.measure(many.z))
    torch.testing.assert_close(kind.measure(many.z), expected, atol=1e-12, rtol=0)
    *_, two = METHODS[name]().draw(EXACT, seen_by(kind, 2), grid, numbers(2, first=3), clip)
    torch.testing.assert_close(two.z, many.z[3:], atol=1e-12, rtol=0)
    assert len({row.tobytes() for row in many.z.numpy()}) == 5


@every_method
def test_evaluations_are_counted(name: str) -> None:
    """Calls of the denoiser and products with Jᵀ, both of one image."""
    method, count = METHODS[name](), 0

    def counted(z: Tensor) -> None:
        nonlocal count
        count += len(z)

    def denoise(z: Tensor, gamma: Tensor) -> Tensor:
        counted(z)
        x_0 = DATA.denoise(z.flatten(1), gamma).reshape(z.shape)
        if x_0.requires_grad:
            x_0.register_hook(counted)
        return x_0

    grid = descending(gammas_of("cosine", 1000), 7)
    for _ in method.draw(denoiser_of(denoise), seen_by(CONSTRAINTS["mask"], 1), grid, numbers(1), False):
        pass
    assert count == method.evaluations(7)


@pytest.mark.parametrize("kind", [Replacement, MomentMatching, TwistedParticles])
@pytest.mark.parametrize("count", [0, 1.5])
def test_counts_are_whole_numbers(kind: type, count: float) -> None:
    with pytest.raises(InputError, match="at least 1"):
        kind(count)
    with pytest.raises(InputError, match="variance"):
        PseudoinverseGuidance(0.0)
    with pytest.raises(InputError, match="sampler"):
        MomentMatching(sampler="euler")


# Replacement


def law_of_replacement(resamplings: int, grid: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x_0 by the paper's algorithm, with matrices in numpy."""
    m, cov, known = MEAN.numpy(), COV.numpy(), X[0].numpy()
    alpha_bars = [float(a) for a in 1 / (1 + np.exp(grid.numpy()))]
    mean, var, one = np.zeros(D), np.eye(D), np.eye(D)
    hide = np.diag([0.0, 0.0, 1.0, 1.0])
    for a_t, a_s in pairwise(alpha_bars):
        gain = np.sqrt(a_t) * cov @ np.linalg.inv(a_t * cov + (1 - a_t) * one)
        beta = 1 - a_t / a_s
        c_0, c_t = np.sqrt(a_s) * beta / (1 - a_t), np.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t)
        slope, offset = c_0 * gain + c_t * one, c_0 * (m - np.sqrt(a_t) * gain @ m)
        for left in reversed(range(resamplings if a_s < 1 else 1)):
            mean = hide @ (slope @ mean + offset) + (one - hide) @ (np.sqrt(a_s) * known)
            var = slope @ var @ slope.T + beta * (1 - a_s) / (1 - a_t) * one
            var = hide @ var @ hide + (1 - a_s) * (one - hide)
            if left:
                mean, var = np.sqrt(a_t / a_s) * mean, a_t / a_s * var + beta * one
    return mean, var


@pytest.mark.parametrize("resamplings", [1, 4])
def test_replacement_has_the_law_of_its_paper(resamplings: int) -> None:
    """5,000 images in 20 steps: 4 standard errors."""
    mean, cov = law_of_replacement(resamplings, descending(gammas_of("cosine", 1000), 20))
    rows = drawn("replacement", 5000, 20, resamplings=resamplings)
    assert_law(rows, torch.from_numpy(mean), torch.from_numpy(cov))


def test_replacement_is_biased_and_less_with_resampling() -> None:
    """In 1,000 steps, where the sampler's own error is below 0.001 nats: KL to the exact law is 0.12 nats without
    resampling; each number of resamplings here at least halves it."""
    exact, divergences = truth(CONSTRAINTS["mask"]), []
    for resamplings in (1, 4, 16):
        mean, cov = (
            torch.from_numpy(part) for part in law_of_replacement(resamplings, descending(gammas_of("cosine", 1000)))
        )
        divergences.append(float(kl_gaussian(mean[2:], cov[2:, 2:], exact.mean[2:], exact.cov[2:, 2:])))
    assert divergences[0] > 0.05
    assert divergences[1] < 0.5 * divergences[0]
    assert divergences[2] < 0.5 * divergences[1]


# Guidance and moments


def posterior_of(data: GaussianData, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_0 given z, by the precision: Σ⁻¹ + SNR I."""
    snr, signal = float((-gamma).exp()), float(torch.sigmoid(-gamma).sqrt())
    inverse = torch.linalg.inv(data.cov)
    cov = torch.linalg.inv(inverse + snr * ONE)
    return cov @ (inverse @ data.mean + snr / signal * z), cov


@every_constraint
@pytest.mark.parametrize("gamma", [-6.0, -1.0, 2.0, 6.0])
def test_moments_give_the_exact_conditional_mean_of_gaussian_data(constraint: str, gamma: float) -> None:
    """In as many iterations as there are measurements. 1e-7: the equations have condition numbers up to 1e4."""
    kind, at = CONSTRAINTS[constraint], torch.tensor([gamma], dtype=torch.float64)
    z, A = images(gaussians(1, D, seed=8)), matrix_of(kind)
    mean, cov = posterior_of(DATA, z.flatten(), at)
    expected = conditional(mean, cov, A, A @ X[0]).mean
    method = MomentMatching(iterations=len(A) if constraint != "block means" else 1)
    found = method.conditional(EXACT, seen_by(kind, 1))(z, at)
    torch.testing.assert_close(found.x_0.flatten(), expected, atol=1e-7, rtol=0)
    signal, noise = (torch.sigmoid(sign * at).sqrt() for sign in (-1, 1))
    torch.testing.assert_close(signal * found.x_0 + noise * found.eps, z, atol=1e-9, rtol=0)


@every_constraint
@pytest.mark.parametrize("gamma", [-6.0, 0.5, 6.0])
def test_guidance_is_exact_for_independent_pixels_of_its_variance(constraint: str, gamma: float) -> None:
    kind, at = CONSTRAINTS[constraint], torch.tensor([gamma], dtype=torch.float64)
    data, A = GaussianData(MEAN, 0.4 * ONE), matrix_of(CONSTRAINTS[constraint])
    z = images(gaussians(1, D, seed=8))
    mean, cov = posterior_of(data, z.flatten(), at)
    expected = conditional(mean, cov, A, A @ X[0]).mean
    found = PseudoinverseGuidance(0.4).guide(on_images(data.denoise), seen_by(kind, 1), z, at)
    torch.testing.assert_close(found.guided.x_0.flatten(), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.free.x_0.flatten(), mean, atol=1e-9, rtol=0)


def test_guidance_of_dependent_pixels_is_its_formula_and_not_the_truth() -> None:
    """x̂_0 + (ᾱ + 1 − ᾱ)/√ᾱ Jᵀ P (y − x̂_0) with J = √ᾱ/(1 − ᾱ) Cov(x_0|z), from matrices; v = 1."""
    at, z = torch.tensor([0.5], dtype=torch.float64), images(gaussians(1, D, seed=8))
    kind, signal = CONSTRAINTS["mask"], torch.sigmoid(-torch.tensor(0.5, dtype=torch.float64)).sqrt()
    mean, cov = posterior_of(DATA, z.flatten(), at)
    P = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    J = signal / (1 - signal**2) * cov
    expected = mean + J.T @ P @ (X[0] - mean) / signal
    found = PseudoinverseGuidance().guide(EXACT, seen_by(kind, 1), z, at)
    torch.testing.assert_close(found.guided.x_0.flatten(), expected, atol=1e-9, rtol=0)
    spread = 1 - signal**2
    twist = -0.5 * float((X[0] - mean)[:2].square().sum() / spread)
    assert float(found.log_twist) == pytest.approx(twist, abs=1e-9)
    A = matrix_of(kind)
    assert float((expected - conditional(mean, cov, A, A @ X[0]).mean).norm()) > 0.1


def affine_law(denoiser: Denoiser, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_0 by DDIM with η = 1, for a denoiser that is affine in z."""
    mean, cov = torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)
    points = images(torch.cat([0 * ONE[:1], ONE]))
    for now, then in pairwise(grid):
        t, s = now.expand(D + 1), then.expand(D + 1)
        law = DDIM(1.0).step(points, denoiser(points, t), t, s)
        rows = law.mean.flatten(1)
        mean, slope = (rows[1:] - rows[0]).T @ mean + rows[0], (rows[1:] - rows[0]).T
        cov = slope @ cov @ slope.T + float(law.var.flatten()[0]) * ONE
    return mean, cov


def test_moments_draw_from_the_exact_conditional_law_with_order_one() -> None:
    """Without Monte Carlo: the error of mean and covariance is halved by twice the steps, within 20%."""
    kind, errors = CONSTRAINTS["mask"], []
    exact = truth(kind)
    for steps in (125, 250, 500):
        grid = descending(gammas_of("cosine", 1000), steps)
        mean, cov = affine_law(MomentMatching(2).conditional(EXACT, seen_by(kind, D + 1)), grid)
        errors.append(float((mean - exact.mean).norm() + (cov - exact.cov).norm()))
    assert errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, rel=0.2)


def test_without_noise_moments_converge_with_order_two() -> None:
    """The deterministic flow is affine: its slope and offset give mean and covariance without Monte Carlo. Twice the
    steps of DPM-Solver++ have a quarter of the error, within 30%, from γ = 9 to −9 in even steps."""
    kind, exact, errors = CONSTRAINTS["mask"], truth(CONSTRAINTS["mask"]), []
    points = images(torch.cat([0 * ONE[:1], ONE]))
    for steps in (40, 80, 160):
        grid = torch.cat([torch.linspace(9, -9, steps, dtype=torch.float64), torch.tensor([CLEAN])])
        denoiser = MomentMatching(2).conditional(EXACT, seen_by(kind, D + 1))
        *_, last = trajectory(RULES["dpm++"], denoiser, points, grid, lambda _: points)
        rows = last.z.flatten(1)
        slope = (rows[1:] - rows[0]).T
        errors.append(float((slope @ slope.T - exact.cov)[2:, 2:].norm()))
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4.0, rel=0.3)


@pytest.mark.parametrize("name", ["guidance", "moments"])
def test_draws_of_a_guided_method_have_the_law_of_its_denoiser(name: str) -> None:
    """5,000 images in 20 steps: 4 standard errors; what is seen is set at the end."""
    how: dict[str, int | str] = {"sampler": "ddim"} | ({"iterations": 2} if name == "moments" else {})
    method = METHODS[name](**how)  # type: ignore[arg-type]
    assert isinstance(method, PseudoinverseGuidance | MomentMatching)
    grid = descending(gammas_of("cosine", 1000), 20)
    mean, cov = affine_law(method.conditional(EXACT, seen_by(CONSTRAINTS["mask"], D + 1)), grid)
    rows = drawn(name, 5000, 20, **how)[:, 2:]
    assert_law(rows, mean[2:], cov[2:, 2:])


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_the_residual_of_any_matrix_is_the_least_of_its_krylov_space(iterations: int) -> None:
    """By NumPy's least squares over b, A b, …, for A = P V P that is neither symmetric nor positive, of rank 5 of 7."""
    matrices = np.random.default_rng(3).standard_normal((6, 7, 7))
    constraint = Matrix(torch.eye(7, dtype=torch.float64)[:5], (7,))
    missing = constraint.project(gaussians(6, 7, seed=1))
    seen = Seen(constraint, missing)
    V, P = torch.from_numpy(matrices), constraint.project(torch.eye(7, dtype=torch.float64))
    found = solve(lambda u: torch.einsum("bij,bj->bi", V, u), seen, missing, iterations)
    for v, b, product in zip(matrices, missing.numpy(), found.product.numpy(), strict=True):
        A = P.numpy() @ v @ P.numpy()
        space = np.stack([np.linalg.matrix_power(A, k) @ b for k in range(iterations)], 1)
        least = b - A @ space @ np.linalg.lstsq(A @ space, b, rcond=1e-10)[0]
        assert np.linalg.norm(b - P.numpy() @ product) == pytest.approx(np.linalg.norm(least), abs=1e-8)
        assert np.linalg.norm(least) <= np.linalg.norm(b)


def test_a_matrix_that_turns_every_vector_by_a_right_angle_moves_nothing() -> None:
    """There uᵀ V u = 0, and no step makes the residual smaller; the other image of the batch is solved."""
    missing = gaussians(2, D, seed=1)
    seen = Seen(Matrix(ONE, (D,)), missing)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    V = torch.stack([torch.block_diag(*[turn] * (D // 2)), 2 * torch.eye(D, dtype=torch.float64)])
    found = solve(lambda u: torch.einsum("bij,bj->bi", V, u), seen, missing, 1).product
    torch.testing.assert_close(found, torch.stack([torch.zeros(D).double(), missing[1]]), atol=1e-12, rtol=0)


# Particles


@pytest.mark.parametrize("iterations", [0, 2])
def test_one_particle_is_its_guided_method(iterations: int) -> None:
    grid, seen = descending(gammas_of("cosine", 1000), 8), seen_by(CONSTRAINTS["mask"], 3)
    alone = [state.z for state in TwistedParticles(1, iterations).draw(EXACT, seen, grid, numbers(3), False)]
    method = MomentMatching(iterations, "ddim") if iterations else PseudoinverseGuidance()
    guided = [state.z for state in method.draw(EXACT, seen, grid, numbers(3), False)]
    for one, two in zip(alone[:-1], guided[:-1], strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


def law_of_particles(grid: Tensor) -> tuple[Tensor, Tensor]:
    """The law of infinitely many particles of the sampler's own chain: z_1 given A⁺y ~ N(P x̂_0(z_1), r² P)."""
    mean, cov = affine_law(EXACT, grid[:-1])
    gamma, points = grid[-2].expand(D + 1), images(torch.cat([0 * ONE[:1], ONE]))
    rows = EXACT(points, gamma).x_0.flatten(1)
    slope, offset = (rows[1:] - rows[0]).T, rows[0]
    A, noise = slope[:2], torch.sigmoid(grid[-2]) * torch.eye(2)
    gain = cov @ A.T @ torch.linalg.inv(A @ cov @ A.T + noise)
    mean, cov = mean + gain @ (X[0, :2] - offset[:2] - A @ mean), cov - gain @ A @ cov
    return slope @ mean + offset, slope @ cov @ slope.T


def test_particles_converge_to_the_law_of_the_chain_given_what_is_seen() -> None:
    """Correlated data in 10 steps, so that guidance alone is far off. 64 particles: 4 standard errors of 2,500 images,
    and 0.02 for the bias of order 1/K; one particle is off by more than 0.1."""
    mean, cov = law_of_particles(descending(gammas_of("cosine", 1000), 10))
    rows = drawn("particles", 2500, 10, particles=64, iterations=0)[:, 2:]
    assert_law(rows, mean[2:], cov[2:, 2:], bias=0.02)
    alone = drawn("particles", 2500, 10, particles=1, iterations=0)[:, 2:]
    assert float((alone.mean(0) - mean[2:]).abs().max()) > 0.1


def weight_of_the_first_mode(particles: int, iterations: int, n: int, steps: int) -> tuple[float, float]:
    """Its error against the exact conditional weight, and its standard error."""
    A = matrix_of(CONSTRAINTS["mask"])
    how = {"particles": particles, "iterations": iterations}
    rows = drawn("particles", n, steps, on_images(MIXTURE.denoise), **how)
    first = MIXTURE.responsibilities(rows, torch.full((n,), -torch.inf))[:, 0]
    exact = float(MIXTURE.conditional(A, A @ X[0]).weights[0])
    assert 0.05 < exact < 0.95
    return abs(float(first.mean()) - exact), float(first.std()) / n**0.5


def test_particles_draw_the_modes_of_a_mixture_as_often_as_they_should() -> None:
    """The exact weight is 0.87. Guidance alone is wrong by 0.6, and each 8 times as many particles have at most half of
    the error, of 1,000 images in 30 steps. With the steps of moments, 16 particles are within 4 standard errors and
    0.02 for 100 steps."""
    errors = [weight_of_the_first_mode(particles, 0, 1000, 30)[0] for particles in (1, 8, 64)]
    assert errors[0] > 0.5
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.5 * errors[1]
    error, stderr = weight_of_the_first_mode(16, 2, 1000, 100)
    assert error < 4 * stderr + 0.02


def test_copies_of_a_particle_are_its_weight_on_average_and_differ_by_less_than_one() -> None:
    weight = torch.tensor([[0.05, 0.5, 0.15, 0.3]], dtype=torch.float64)
    total = torch.zeros(4)
    for u in (torch.arange(1000).double() + 0.5) / 1000:
        counts = torch.bincount(systematic(weight.log(), u[None], 4), minlength=4)
        assert bool(((counts - 4 * weight[0]).abs() < 1).all())
        total += counts
    torch.testing.assert_close(total / 1000, 4 * weight[0].float(), atol=2e-3, rtol=0)


def test_only_images_of_few_effective_particles_are_resampled() -> None:
    """1/Σ w² = 3.3 of 4 particles stay, with their weights; of 1 particle, all become its copies."""
    logs = torch.tensor([[0.4, 0.3, 0.2, 0.1], [1.0, 1e-9, 1e-9, 1e-9]], dtype=torch.float64).log()
    rows, after = resampled(logs, torch.tensor([0.9, 0.5]).double())
    assert rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert torch.equal(after, torch.stack([logs[0], torch.zeros(4).double()]))


def test_the_ratio_of_two_steps_is_that_of_their_densities() -> None:
    z, one, two = (gaussians(3, D, seed=k) for k in (1, 2, 3))
    var = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
    p, q = Gaussian(one, var), Gaussian(two, var)
    expected = (p.log_prob(z) - q.log_prob(z)).sum(1)
    torch.testing.assert_close(log_ratio(p, q, z), expected, atol=1e-12, rtol=0)
