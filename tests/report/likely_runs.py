"""Runs with likelihoods for the reports: a block, a pass and one that is inconclusive, as `judge` judges them."""

from dataclasses import replace

from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.judge import judge
from tests.policy.policy_builders import (
    STRICT,
    TODAY,
    broken,
    clean_run,
    estimated,
    sampled,
    target,
    text_run,
    waiver,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_score,
)

OFTEN = {"plain_copies": 20, "upper": upper_bound(20, 512, confidence=0.975)}


def as_judged(data: RunData, *waivers) -> RunData:
    return replace(data, verdict=judge(data, STRICT, waivers, today=TODAY))


def blocked() -> RunData:
    """p1 comes out of one in 41, p2 of one in a million, p3 with chosen noise alone; m1 is waived, m2 not inverted."""
    data = with_score(clean_run(), "p1", 0.0161)
    data = with_score(with_score(data, "p2", 0.031), "p3", 0.045)
    data = with_confirmation(data, sampled("p1", 20), sampled("p1", 17, method="plain_sampling_on_grid"))
    data = with_confirmation(data, sampled("m1", 1))
    return as_judged(
        with_likelihood(
            data,
            estimated("p1", 3.7, **OFTEN),
            estimated("p2", 13.8),
            estimated("p3", 34.5),
            estimated("m1", 9.1, plain_copies=1, upper=upper_bound(1, 512, confidence=0.975)),
        ),
        *(waiver(probe="m1", rule=rule) for rule in ("confirmed", "extraction_likelihood")),
    )


def passed() -> RunData:
    return as_judged(clean_run())


def open_run() -> RunData:
    """p1 broke, p2 was copied and has no estimate."""
    data = with_measurement(clean_run(), broken(target(clean_run(), "p1")))
    return as_judged(replace(with_score(data, "p2", None, hits=3), likelihoods=()))


def blocked_with_prompts() -> RunData:
    """p1 comes out with its caption, p2 with a prompt that was found, p3 with a soft one."""
    data = with_confirmation(
        text_run(),
        sampled("p1", 9, 64, method="caption", prompt="a cat on a mat"),
        sampled("p2", 5, 64, method="gcg", prompt="zx !! qq"),
    )
    return as_judged(
        with_likelihood(
            data,
            estimated("p1", 100.0, prompt_kind="caption"),
            estimated("p2", 100.0, prompt_kind="soft"),
            estimated("p3", 8.0, prompt_kind="soft"),
        )
    )
