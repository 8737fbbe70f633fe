"""Labels are tried in turn, each with all its samples; what was not tried is never called refuted."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.label_sampling import LabelPlan, replication_of_labels
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_sampling import Attempts, PromptPlan
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Confirmation
from invmm_gate.models.adapters.class_conditional import Labels
from invmm_gate.similarity.pixel import PixelRmse

LABELS = Labels(classes=9, null=None, unconditional=None, device=torch.device("cpu"))
PROBE = torch.zeros(3, 8, 8)


class Drawn:
    """Draws the probe under the labels that know it, at one guidance scale, and white otherwise."""

    name = "drawn"

    def __init__(self, knows: dict[int, float]) -> None:
        self.knows, self.asked = knows, list[tuple[str, float]]()

    def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
        return steps * (1 if guidance_scale == 1 else 2)

    def images(
        self, streams: Sequence[torch.Generator], *, steps: int, prompt: str | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        del steps
        assert prompt is not None
        self.asked.append((prompt, guidance_scale))
        copied = self.knows.get(int(prompt)) == guidance_scale
        return torch.stack([PROBE if copied else torch.ones(3, 8, 8) for _ in streams])


def tried(sampler: Any, labels: Sequence[int], *, most: int = 16, **changes: Any) -> Confirmation:
    metric = PixelRmse(0.1)
    each = PromptPlan(trials=4, sampler_steps=5, guidance_scales=(1.0, 4.0), rows=4)
    events: Iterator[Any] = replication_of_labels(
        Attempts(sampler=sampler, prompts=LABELS, metric=metric),
        "probe",
        (metric.embed(PROBE[None]),),
        LabelPlan(labels=tuple(labels), each=each, most=most, **changes),
        method="label",
        streams=lambda label: lambda number: torch.Generator().manual_seed(100 * label + number),
    )
    (found,) = (event.confirmation for event in events if isinstance(event, Confirmed))
    return found


def test_the_first_label_with_a_copy_answers_and_no_further_one_is_tried() -> None:
    sampler = Drawn({5: 4.0})
    found = tried(sampler, [3, 5, 7])
    assert (found.status, found.label, found.hits, found.guidance_scale, found.labels_left) == (
        "confirmed", 5, 4, 4.0, 0,
    )  # fmt: skip
    assert (found.prompt, found.token_ids) == (None, None)
    assert sampler.asked == [("3", 1.0), ("3", 4.0), ("5", 1.0), ("5", 4.0)]
    assert found.evaluations == 2 * 4 * 5 * 3  # both labels, at one forward and at two
    assert found.interval.confidence == pytest.approx(1 - 0.05 / (3 * 2))


def test_all_labels_without_a_copy_refute_within_the_budget() -> None:
    found = tried(Drawn({}), [3, 5, 7])
    assert (found.status, found.hits, found.labels_left, found.trials) == ("refuted", 0, 0, 4)


def test_what_there_was_no_room_for_leaves_the_probe_undecided() -> None:
    assert tried(Drawn({7: 1.0}), [3, 5, 7], most=2).status == "undecided"
    assert tried(Drawn({7: 1.0}), [3, 5, 7], most=2).labels_left == 1
    assert tried(Drawn({5: 1.0}), [3, 5, 7], most=2).labels_left == 0


@pytest.mark.parametrize(("budget", "left"), [(1, 2), (60, 2), (119, 2), (120, 1), (10_000, 0)])
def test_no_label_begins_that_could_go_beyond_the_budget(budget: int, left: int) -> None:
    sampler = Drawn({})
    assert tried(sampler, [3, 5, 7], max_evaluations=budget).labels_left == left
    assert len(sampler.asked) == 2 * (3 - left)


def test_labels_are_no_text() -> None:
    attempts = Attempts(sampler=Drawn({}), prompts=LABELS, metric=PixelRmse(0.1))
    with pytest.raises(ConfigError, match="takes no prompt"):
        _ = attempts.texts
