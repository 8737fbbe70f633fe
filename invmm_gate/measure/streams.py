"""Random streams: each belongs to one probe, trial and purpose, so no score depends on order or batch mates."""

from hashlib import sha256

import torch


def stream(root_seed: int, *key: str | int) -> torch.Generator:
    """A CPU generator seeded from the run's seed and the key, e.g. a probe's sha256, its trial and `test`.

    CPU generators give the same numbers whatever device the tensors move to.
    """
    name = "|".join(str(part) for part in (root_seed, *key))
    seed = int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)
