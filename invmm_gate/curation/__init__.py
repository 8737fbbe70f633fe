"""`probes build`: clusters of near-duplicates, intrinsic dimension, and proposals of probes. No torch."""
