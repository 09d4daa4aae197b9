"""Theory: divergences, surrogate posteriors, Markov chains, hierarchies, likelihoods over levels, exact oracles.

KL(q‖p) = E_q[ln q − ln p],   JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m) with m = ½(q + p),   TV(q, p) = ½ ∫ |q − p|

Discrete distributions use a sum. Densities use a closed form, quadrature in one dimension, or Monte Carlo.
All divergences are in nats, and 0 ln 0 = 0. A ValueError refuses probabilities that do not sum to 1, and an infinite KL
(q has mass where p has none). JS and TV are always finite.
"""
