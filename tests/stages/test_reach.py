"""A whole check of a set with canaries and a random sample: the verdict says what it found of each, everywhere."""

import datetime
import json

from invmm_gate.core.options import NewProbes
from invmm_gate.probes.edit import add_probes, init_probe_set, join_probe_set
from tests.stages.world import add_picture, draw, new_world

TODAY = datetime.date(2026, 11, 21)


def test_a_check_counts_canaries_by_multiplicity_and_bounds_the_share_that_comes_out(tmp_path):
    world = new_world(tmp_path / "world", planted=(), single=())
    add_picture(world, 17, "sample")
    canaries = tmp_path / "canaries"
    init_probe_set(canaries)
    for number, multiplicity in ((1, 32), (16, 1)):  # as often as the demo's model saw them
        path = tmp_path / f"{number}.png"
        draw(number).save(path)
        add_probes(canaries, [path], NewProbes(group="canary", multiplicity=multiplicity, added_on=TODAY))
    join_probe_set(world.probes, canaries)
    called = world.check()
    assert called.code == 0, called.err  # a pass that shows what it could have found
    verdict = json.loads((world.run / "verdict.json").read_text())
    assert verdict["extractable"] | {"upper": 0} == {
        "drawn": 1,
        "found": 0,
        "unsearched": 0,
        "upper": 0,
        "confidence": 0.95,
    }
    assert [(rung["multiplicity"], rung["found"], rung["planted"]) for rung in verdict["power"]["rungs"]] == [
        (1, 0, 1),
        (32, 1, 1),
    ]
    bound = (
        "At most 95 % of the training images are extractable by this search (95 % confidence): "
        "0 of 1 that were drawn at random were found."
    )
    ladder = "once: 0 of 1 (0 % to 97.5 %); 32 times: 1 of 1 (2.5 % to 100 %)."
    pages = (called.out, *((world.run / name).read_text() for name in ("report.html", "public/report.html")))
    assert all(bound in page and ladder in page for page in pages)
