"""Diffusion, in one coordinate, γ = −ln SNR: schedules, denoisers, objectives, bounds and samplers.

| noun | file | what it is |
| schedule | schedules | γ(t) and γ′(t) on [0, 1]; a chain is a grid of γ |
| denoiser | denoiser | (z, γ) → x̂_0 and ε̂, whatever the network predicts |
| objective | objectives | a weight w(γ) on the bound's own integrand |
| bound | bound | terms in nats, in every form |
| sampler | samplers | one step from z_t to the law of z_s |
"""
