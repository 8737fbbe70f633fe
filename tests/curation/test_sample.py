"""The random draw: every set of images equally likely, exact copies one image, unfit ones passed over."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.sample import Sample, draw_sample
from invmm_gate.curation.training_scan import Distinct, Item


def training(count: int) -> Distinct:
    items = tuple(
        Item(source=0, position=row, name=f"{row}.png", sha256=bytes([row]), pixels=bytes([row]))
        for row in range(count)
    )
    copies = np.arange(1, count + 1) ** 3  # the last image is most of the data
    rows = {item.pixels: row for row, item in enumerate(items)}
    return Distinct(vectors=np.zeros((count, 2), np.float32), items=items, multiplicity=copies, rows=rows)


def drawn(count: int, data: Distinct, seed: int, bad: tuple[str, ...] = ()) -> Sample:
    return draw_sample(
        count, data, seed=seed, unfit=lambda items: ["is bad" if item.name in bad else "" for item in items]
    )


def test_each_pair_of_images_is_as_likely_as_any_other_whatever_their_copies() -> None:
    data = training(6)
    seen = Counter(tuple(sorted(drawn(2, data, seed).rows)) for seed in range(3000))
    assert set(seen) == set(combinations(range(6), 2))
    expected = 3000 / 15
    chi_squared = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_squared < 36.1  # 14 degrees of freedom: above it in 1 of 1,000


def test_the_seed_decides_and_a_larger_draw_holds_the_smaller_one() -> None:
    data = training(40)
    assert drawn(10, data, 3) == drawn(10, data, 3) != drawn(10, data, 4)
    assert drawn(10, data, 3).rows == drawn(30, data, 3).rows[:10]
    assert drawn(0, data, 3) == Sample(rows=(), passed_over=())
    assert sorted(drawn(40, data, 3).rows) == list(range(40))


def test_an_image_that_cannot_be_a_probe_is_passed_over_for_the_next_of_the_draw() -> None:
    data = training(40)
    whole = drawn(40, data, 3).rows
    bad = tuple(f"{row}.png" for row in whole[2:6])
    found = drawn(10, data, 3, bad)
    assert found.rows == (*whole[:2], *whole[6:14])
    assert [left.name for left in found.passed_over] == list(bad)


def test_too_few_images_are_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(ProbeSetError, match=r"--sample 5: 3 of 4 training images .*; expected at most 3"):
        drawn(5, training(4), 0, ("1.png",))
