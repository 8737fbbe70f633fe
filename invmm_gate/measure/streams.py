"""Random streams: each belongs to one probe, trial and purpose, so no score depends on order or batch mates."""

from hashlib import sha256

import torch


def stream(root_seed: int, *key: str | int, device: torch.device | None = None) -> torch.Generator:
    """A generator seeded from the run's seed and the key, e.g. a probe's sha256, its trial and `test`.

    A CPU generator, the default, gives the same numbers whatever device the tensors move to. The Gumbel noises of a
    whole vocabulary are drawn on the device itself: too many to move at each step.
    """
    name = "|".join(str(part) for part in (root_seed, *key))
    seed = int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.Generator(device or "cpu").manual_seed(seed)
