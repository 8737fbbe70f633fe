"""The scope of a verdict: the size, samplers, guidance scales and seed that its scores are of. Pure."""

from hashlib import sha256
from typing import Final

from invmm_gate.core.records import Scope
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.policy.evidence import has_prompts

_SEED_BITS: Final = 53
"""The largest whole numbers that every reader of JSON keeps as they are."""


def content_seed(*, model: str, probe_set: str, policy: str) -> int:
    """The seed that the digests of a model, a probe set and a policy give, in [0, 2**53). No other choice moves it."""
    name = "\n".join(("invmm-gate seed v1", model, probe_set, policy))
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def scope_of(data: RunData, policy: str) -> Scope:
    """The scope of a run's records, for a verdict under the policy of this digest."""
    run, inputs = data.run, data.run.inputs
    return Scope(
        image_size=inputs.image_size,
        samplers=(inputs.samplers.released, inputs.samplers.grid),
        sampler_steps=inputs.settings.sampler_steps,
        guidance_scales=_scales(run),
        seed=inputs.seed,
        seed_chosen=inputs.seed != content_seed(model=run.model.digest, probe_set=run.probe_set.digest, policy=policy),
    )


def _scales(run: RunRecord) -> tuple[float, ...]:
    """Every scale at which the run inverted or tried a prompt, ascending."""
    found, prompts = set(run.inputs.settings.guidance_scales), run.inputs.confirm.prompts
    if has_prompts(run) and prompts is not None:
        found |= set(prompts.guidance_scales)
    return tuple(sorted(found))
