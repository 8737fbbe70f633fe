"""What a probe is called outside the run folder: a keyed hash, which nobody without the key can link to an image."""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, final

from invmm_gate.core.records import Probe


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublicNames:
    """The public names of one run's probes; under one key, one image has one name in all runs."""

    key: bytes = field(repr=False)
    probes: Mapping[str, str]
    """Id -> public name."""

    @classmethod
    def under(cls, key: bytes, probes: Iterable[Probe]) -> Self:
        """`p-` and the first 16 hexadecimal digits of HMAC-SHA256(key, "image:" + sha256 of the image).

        Further probes of one image get `-2`, `-3` and so on behind it, in the set's order.
        """
        named: dict[str, str] = {}
        seen: dict[str, int] = {}
        for probe in probes:
            if probe.id not in named:
                name = f"p-{_hash(key, 'image', probe.sha256)}"
                seen[name] = seen.get(name, 0) + 1
                named[probe.id] = name if seen[name] == 1 else f"{name}-{seen[name]}"
        return cls(key=key, probes=named)

    def of(self, probe: str) -> str:
        """The probe's public name; an id that the set does not have gets one of its own kind, `x-...`."""
        return self.probes.get(probe) or f"x-{_hash(self.key, 'id', probe)}"

    def of_cluster(self, cluster: str) -> str:
        """The cluster's public name; empty for none."""
        return f"c-{_hash(self.key, 'cluster', cluster)}" if cluster else ""


def _hash(key: bytes, kind: str, text: str) -> str:
    return hmac.digest(key, f"{kind}:{text}".encode("utf-8", "backslashreplace"), "sha256").hex()[:16]
