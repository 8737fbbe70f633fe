"""A checkpoint that was read is loaded: networks and their weights, and the proof that diffusers loads the same."""
