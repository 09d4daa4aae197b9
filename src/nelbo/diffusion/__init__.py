"""Diffusion with the coordinate γ = −ln SNR: schedules, denoisers, objectives, bounds and samplers.

| noun | file | contents |
| schedule | schedules | γ(t) and γ′(t) on [0, 1]; a chain is a grid of γ |
| denoiser | denoiser | (z, γ) → x̂_0 and ε̂, whatever the network predicts |
| objective | objectives | a weight w(γ) on the integrand of the bound |
| bound | bound | terms in nats, in every form |
| sampler | samplers | one step from z_t to the distribution of z_s |
"""
