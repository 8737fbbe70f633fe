"""invmm-gate: a release gate for diffusion models that memorize."""

__version__ = "0.1.0"
