"""For each chapter's exercise: code that answers it right, and code that answers it wrong in a likely way."""

from __future__ import annotations

from typing import NamedTuple


class Solution(NamedTuple):
    """Replacements of the exercise cell.

    Attributes:
        right: code that must pass the check.
        wrong: codes that each must fail it.
    """

    right: str
    wrong: tuple[str, ...]


def values(name: str, right: str, *wrong: str) -> Solution:
    """A variable, its right expression and wrong ones."""
    return Solution(f"{name} = {right}", tuple(f"{name} = {each}" for each in wrong))


PCA = """
def subspace(x, k):
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:k]
"""
WRONG_SUBSPACES = (
    PCA.replace("[:k]", "[-k:]"),  # the smallest directions
    PCA.replace("[:k]", "[:k] * 2"),  # not orthonormal
    PCA.replace("[:k]", "[1 : k + 1]"),
    "def subspace(x, k):\n    return torch.linalg.qr(x[:k].T).Q.T",  # images, not directions
    "def subspace(x, k):\n    return x[:, :k].T",  # another shape
)

SOLUTIONS: dict[str, Solution] = {
    "01-kl-divergence": values(
        "forward, backward",
        "0.0225824, 0.0216009",
        "0.0216009, 0.0225824",  # exchanged
        "0.0325797, 0.0311636",  # bits
        "0.1, 0.1",
        "'zero', 'zero'",
    ),
    "02-surrogate-posterior": values("largest_elbo", "-1.688", "1.688", "-2.2655", "-1.764", "-0.4225"),
    "03-autoencoder": Solution(PCA, WRONG_SUBSPACES),
    "04-vae": values(
        "variance_reparameterised, variance_score_function",
        "4.0, 30.0",
        "30.0, 4.0",
        "8.0, 34.0",  # second moments
        "2.0, 5.48",  # standard deviations
    ),
    "05-gan": values("best_value", "-1.37528", "0.005509", "-1.38629", "-1.3808", "1.37528"),
    "06-markov-chain": values("pi", "(5 / 6, 1 / 6)", "(1 / 6, 5 / 6)", "(0.5, 0.5)", "(0.7, 0.3)", "5 / 6", "(5, 1)"),
    "07-hierarchical-vae": values("cost_of_a_walk", "1.163939", "-1.163939", "58.19695", "0.918939", "1.163"),
    "08-variational-diffusion": values(
        "diffusion_term", "3.6885", "7.377", "3.3466", "3.0", "3.6885 / 0.693147"
    ),  # without ½, the variance 2, the variance 1, bits
    "09-forward-process": values(
        "alpha_bar_1000", "4.0358e-5", "4.3194e-5", "4.105e-5", "6.3528e-3", "0.99996"
    ),  # e^(−Σβ), a power of the mean, the square root, 1 − ᾱ
    "10-posterior": values("beta_tilde_2", "5.4532e-5", "1.1992e-4", "1e-4", "7.3846e-3", "4.5468e-5"),
    "11-three-predictions": values(
        "x_500, v_500",
        "1.15614, -0.39160",
        "-0.39160, 1.15614",
        "1.15614, 0.39160",
        "0.9764, -0.5913",  # ᾱ without the root
        "0.7, 1.0",
    ),
    "12-simple-loss": Solution(
        "smallest_loss = alpha_bar.mean()",
        (
            "smallest_loss = (1 - alpha_bar).mean()",
            "smallest_loss = alpha_bar.sqrt().mean()",
            "smallest_loss = alpha_bar.sum()",
            "smallest_loss = 0.0",
        ),
    ),
    "13-unet": values("count", "642_275", "642_274", "641_987", "642e3"),
    "14-discretised-decoder": values(
        "bits", "1.7128775", "1.1872763", "0.305057", "2.36405", "8.0"
    ),  # nats, the probability, half a bin
    "15-forms-of-the-bound": Solution(
        "right_bound, wrong_formula = 1.1639, 984.93",
        (
            "right_bound, wrong_formula = 1.1639, 999.0",
            "right_bound, wrong_formula = 984.93, 984.93",
            "right_bound, wrong_formula = 1.1639, 1.1639",
        ),
    ),
    "16-mnist": Solution(
        "score = sum(nats.values()) / math.log(2) / dataset.dims",
        (
            "score = sum(nats.values())",
            "score = sum(nats.values()) / dataset.dims",
            "score = sum(nats.values()) / math.log(2) / len(test)",
            "score = nats['diffusion'] / math.log(2) / dataset.dims",
        ),
    ),
    "17-your-own-network": values("channels", "9", "3", "6", "5"),
    "18-your-own-images": values("index", "odd", "(odd + 1) % 16", "odd - 16", "16"),
}
