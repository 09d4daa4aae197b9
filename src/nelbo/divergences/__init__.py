"""Divergences between distributions, and entropies, in nats.

KL(q‖p) = E_q[ln q − ln p],   JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m) with m = ½(q + p),   TV(q, p) = ½ ∫ |q − p|

Discrete laws: by a sum. Densities: in closed form, by quadrature in one dimension, by Monte Carlo elsewhere.
Everywhere 0 ln 0 = 0, and a ValueError refuses numbers that are no law, and a KL that is infinite because q has mass
where p has none. JS and TV are finite for any two laws.
"""

from nelbo.divergences.adversarial import (
    discriminator_value,
    hinge_loss,
    js_lower_bound,
    optimal_logit,
    total_variation_lower_bound,
)
from nelbo.divergences.continuous import integral, js_density, kl, kl_density, total_variation_density
from nelbo.divergences.discrete import (
    entropy_discrete,
    js_discrete,
    kl_discrete,
    require_law,
    total_variation_discrete,
)
from nelbo.divergences.monte_carlo import Estimate, kl_monte_carlo, kl_monte_carlo_low_variance
from nelbo.divergences.normal import entropy_normal, kl_normal, kl_of_variances

__all__ = [
    "Estimate",
    "discriminator_value",
    "entropy_discrete",
    "entropy_normal",
    "hinge_loss",
    "integral",
    "js_density",
    "js_discrete",
    "js_lower_bound",
    "kl",
    "kl_density",
    "kl_discrete",
    "kl_monte_carlo",
    "kl_monte_carlo_low_variance",
    "kl_normal",
    "kl_of_variances",
    "optimal_logit",
    "require_law",
    "total_variation_density",
    "total_variation_discrete",
    "total_variation_lower_bound",
]
