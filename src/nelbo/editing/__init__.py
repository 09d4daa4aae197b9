"""Images from p(x_0 | A x_0 = y), variations and latents of an image, with a denoiser in γ = −ln SNR.

| noun | file | contents |
| constraint | constraints | A x = y with its pseudo-inverse: a mask, block means, any matrix |
| method | methods, particles | a rule that draws x_0 given A x_0 = y; three approximate it, one is exact in the limit |
| variation | variation | z of an image at some γ, and x_0 drawn again |
| latent | latents | the deterministic latent of an image, its inverse, points between two latents |
"""
