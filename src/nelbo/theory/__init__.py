"""Theory: divergences, surrogate posteriors, Markov chains, hierarchies, likelihoods over levels, exact oracles.

KL(q‖p) = E_q[ln q − ln p],   JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m) with m = ½(q + p),   TV(q, p) = ½ ∫ |q − p|

Discrete laws: by a sum. Densities: in closed form, by quadrature in one dimension, by Monte Carlo elsewhere.
Everywhere 0 ln 0 = 0, and a ValueError refuses numbers that are no law, and a KL that is infinite because q has mass
where p has none. JS and TV are finite for any two laws. Everything is in nats.
"""
