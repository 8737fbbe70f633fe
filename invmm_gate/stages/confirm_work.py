"""What all ways of confirming share: which probes they are for, what they draw with, where the records go."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import torch
from torch import Tensor

from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_sampling import Attempts, PromptMethod
from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.progress import Progress
from invmm_gate.core.protocols import Sampler
from invmm_gate.core.records import (
    CAPTION,
    CAPTION_ON_GRID,
    CLUSTER_PROMPT,
    GCG,
    LABEL,
    LABEL_ON_GRID,
    LABEL_SEARCH,
    ON_GRID,
    PLAIN_SAMPLING,
    PLAIN_SAMPLING_ON_GRID,
    Confirmation,
    Probe,
)
from invmm_gate.core.run_records import RunData
from invmm_gate.measure.distributions import stream
from invmm_gate.policy.judge import gather, probes_to_confirm
from invmm_gate.policy.likelihoods import copied_probes
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.on_device import store_copies
from invmm_gate.stages.session import Session

_FILE_NAMES: Final = {
    PLAIN_SAMPLING: "sampled",
    PLAIN_SAMPLING_ON_GRID: "sampled_on_grid",
    CAPTION: "caption",
    CAPTION_ON_GRID: "caption_on_grid",
    CLUSTER_PROMPT: "cluster",
    GCG: "gcg",
    LABEL: "label",
    LABEL_ON_GRID: "label_on_grid",
    LABEL_SEARCH: "label_search",
}
_Event = TypeVar("_Event")


@dataclass(frozen=True, slots=True)
class Confirming:
    """A run that is being confirmed."""

    session: Session
    folder: RunFolder
    progress: Progress
    baseline: RunData | None

    @property
    def rows(self) -> int:
        """Rows of a call of the network."""
        return max(self.session.slots * self.session.settings.batch_size // 2, 1)

    def wanted(self, method: str) -> list[Probe]:
        """Probes that the policy wants confirmed by a method and that have no record of it."""
        done = {record.probe for record in self.folder.confirmations() if record.method == method}
        policy = self.session.inputs.policy
        ids = probes_to_confirm(self.folder.data(), policy, method=method, baseline=self.baseline)
        return [self.session.probe(probe) for probe in ids if probe not in done]

    def copied(self) -> list[Probe]:
        """Probes of which the search has made a copy at least once."""
        copied = copied_probes(gather(self.folder.data(), self.session.inputs.policy, baseline=self.baseline))
        return [probe for probe in self.session.inputs.probe_set.probes if probe.id in copied]

    def sampler(self, method: str) -> Sampler:
        """The measure's own for what is on its grid, else that of the released pipeline."""
        return self.session.grid if method in ON_GRID else self.session.released

    def attempts(self, method: PromptMethod) -> Attempts:
        """What every prompt is tried with, by one method."""
        return Attempts(sampler=self.sampler(method), prompts=self.session.words, metric=self.session.metric)

    def replicated(self) -> set[str]:
        """Probes that an input was found for."""
        return {record.probe for record in self.folder.confirmations() if record.hits}

    def references(self, probes: Iterable[Probe]) -> dict[str, tuple[Tensor, ...]]:
        """The metric's features of each probe's image, and of its mirror image where that counts too."""
        return {probe.id: tuple(self._features(probe)) for probe in probes}

    def _features(self, probe: Probe) -> Iterator[Tensor]:
        image = self.session.image(probe.id)[None].to(self.session.model.device)
        yield self.session.metric.embed(image)
        if self.session.settings.mirror:
            yield self.session.metric.embed(image.flip(-1))

    def stream(self, *key: str | int) -> torch.Generator:
        """The random stream of a key."""
        return stream(self.session.inputs.seed, *key)

    def store(self, found: Confirmed) -> Confirmation:
        """Write a probe's copies, then its record, which names them."""
        record = found.confirmation
        place = f"copies/confirmed/{record.probe}/{_FILE_NAMES[record.method]}"
        copies = store_copies(self.folder, place, found.copies)
        stored = replace(record, copies=copies)
        self.folder.append(stored)
        return stored


def while_finite(events: Iterator[_Event], progress: Progress) -> Iterator[_Event]:
    """The events of the sampler alone: an error in storing them is not caught here."""
    try:
        yield from events
    except MeasurementError as error:
        progress.note(f"not confirmed: {error}")
