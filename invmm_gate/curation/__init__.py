"""Near-duplicate clusters, intrinsic dimension and probe proposals, from embeddings. No torch."""
