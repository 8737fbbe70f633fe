"""The views: each is another change, and noise is changed alike."""

from itertools import pairwise

import pytest
import torch

from invmm_gate.measure.looking import View, views_of

IMAGES = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4) / 48.0 - 0.9


def test_no_two_views_show_the_same_and_none_shows_the_image_itself() -> None:
    views = list(views_of((4, 4)))
    shown = sorted(tuple(view.change(IMAGES).flatten().tolist()) for view in views)
    assert all(first != second for first, second in pairwise(shown))
    assert tuple(IMAGES.flatten().tolist()) not in shown
    assert len({view.name for view in views}) == len(views)


@pytest.mark.parametrize(("size", "count", "single"), [((4, 4), 113, 11), ((4, 6), 101, 9)])
def test_every_exact_change_of_weights_and_what_trainers_read_is_a_view(
    size: tuple[int, int], count: int, single: int
) -> None:
    views = list(views_of(size))
    assert (len(views), sum(view.single for view in views)) == (count, single)
    assert sum(view.turn == "" for view in views) == 6 * 8 - 1
    assert sum(view.turn == "turned by 180 degrees" for view in views) == 6 * 8


@pytest.mark.parametrize("view", list(views_of((4, 4))), ids=lambda view: view.name)
def test_a_view_loses_nothing_and_changes_noise_alike(view: View) -> None:
    seen = view.change(IMAGES)
    assert seen.shape == IMAGES.shape
    assert torch.equal(seen.abs().flatten(1).sort().values, IMAGES.abs().flatten(1).sort().values)
    assert torch.equal(view.of_noise(IMAGES, pixels=True), seen)
    assert torch.equal(view.of_noise(IMAGES[:, :1], pixels=False), View(turn=view.turn).change(IMAGES)[:, :1])


@pytest.mark.parametrize(
    ("view", "name"),
    [
        (View(turn="mirrored"), "mirrored"),
        (View(channels=(2, 1, 0)), "BGR for RGB"),
        (View(signs=(-1, -1, -1)), "negative"),
        (View(signs=(1, -1, 1)), "negative in green"),
        (
            View(turn="mirrored", channels=(2, 1, 0), signs=(-1, 1, -1)),
            "mirrored, BGR for RGB, negative in red and blue",
        ),
    ],
)
def test_a_view_is_named_by_what_it_changes(view: View, name: str) -> None:
    assert view.name == name
