"""Which images the self-checks of the model look at: neither a ladder nor a random draw decides them by its number."""

from dataclasses import replace

from invmm_gate.core.records import Probe
from invmm_gate.stages.self_checks import controls_among, others_among
from tests.policy.policy_builders import probe


def ids(probes: list[Probe]) -> set[str]:
    return {each.id for each in probes}


SUSPECTED = [probe(f"p{number}", group="duplicated") for number in range(5)]
CONTROLS = [probe(f"c{number}", group="control") for number in range(20)]
DRAWN = [probe(f"s{number}", group="sample") for number in range(300)]
LADDER = [replace(probe(f"x{number}", group="canary"), multiplicity=4) for number in range(140)]
OWN = probe("own", group="canary")


def test_the_others_are_what_must_not_come_out_and_the_random_draw_last() -> None:
    found = others_among([*LADDER, *DRAWN, *CONTROLS, *SUSPECTED, OWN])
    assert ids(found[:6]) == ids([*SUSPECTED, OWN])
    assert found[6:] == sorted(DRAWN, key=lambda each: each.sha256)
    assert others_among([*SUSPECTED, *CONTROLS]) == sorted(SUSPECTED, key=lambda each: each.sha256)


def test_the_controls_are_16_of_them_whatever_else_there_is() -> None:
    found = controls_among([*LADDER, *DRAWN, *CONTROLS])
    assert len(found) == 16
    assert ids(found) < ids(CONTROLS)
    assert found == controls_among(CONTROLS)
