"""The process that all families share: levels, x_0 estimates, denoising error, one sampler."""
