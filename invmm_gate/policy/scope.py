"""What a verdict's scores are of: the size, the sampler, the scales and the seed, for who demands them. Pure."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from invmm_gate.core.records import RunData, RunRecord, Scope
from invmm_gate.policy.evidence import has_prompts
from invmm_gate.policy.numbers import is_number

_SEED_BITS: Final = 53
"""The largest whole numbers that every reader of JSON keeps as they are."""


def content_seed(*, model: str, probe_set: str, policy: str) -> int:
    """The seed that the digests of a model, a probe set and a policy give, in [0, 2**53). No other choice moves it."""
    name = "\n".join(("invmm-gate seed v1", model, probe_set, policy))
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def scope_of(data: RunData, policy: str) -> Scope | None:
    """What a run's records are of, for a verdict under the policy of this digest; None where the run does not say."""
    run, settings = data.run, data.run.inputs.get("settings")
    seed, steps = run.inputs.get("seed"), _value(settings, "sampler_steps")
    size, scales = _whole(run.inputs.get("image_size")), _scales(run)
    samplers = _texts(run.inputs.get("samplers"))
    if not isinstance(seed, int) or not isinstance(steps, int) or len(size) != 2 or not scales or not samplers:
        return None
    return Scope(
        image_size=(size[0], size[1]),
        samplers=samplers,
        sampler_steps=steps,
        guidance_scales=scales,
        seed=seed,
        seed_chosen=seed != content_seed(model=run.model.digest, probe_set=run.probe_set.digest, policy=policy),
    )


def _scales(run: RunRecord) -> tuple[float, ...]:
    """Every scale at which the run inverted or tried a prompt, ascending."""
    found = _numbers(_value(run.inputs.get("settings"), "guidance_scales"))
    if has_prompts(run):
        found |= _numbers(_value(_value(run.inputs.get("confirm"), "prompts"), "guidance_scales"))
    return tuple(sorted(found))


def _value(found: object, name: str) -> object:
    return found.get(name) if isinstance(found, Mapping) else None


def _texts(found: object) -> tuple[str, ...]:
    return tuple(str(item) for item in found.values()) if isinstance(found, Mapping) else ()


def _numbers(found: object) -> set[float]:
    items = found if isinstance(found, list | tuple) else ()
    return {float(item) for item in items if isinstance(item, int | float) and is_number(item)}


def _whole(found: object) -> tuple[int, ...]:
    return tuple(item for item in found if type(item) is int) if isinstance(found, list | tuple) else ()
