"""InvMM: the noise distribution, its adaptive weight, the sensitivity test and the inversion loop."""
