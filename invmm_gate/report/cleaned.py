"""Records in the order in which reports show them, and texts without what is private."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from invmm_gate.core.records import Measurement
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Takes private texts out of free text; the second line of defence after not passing the fields on."""

    private: tuple[str, ...]

    def __call__(self, text: str) -> str:
        """The text with every private string replaced by `[redacted]`."""
        for secret in self.private:
            if secret in text:
                text = text.replace(secret, "[redacted]")
        return text


def cleaner(data: RunData, *, reveal: bool) -> Cleaner:
    """Cleans nothing in a revealed report."""
    return Cleaner(() if reveal else data.private_texts)


def ranked(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Most memorized first; ties by probe id."""
    return sorted(measurements, key=lambda item: (item.rank, item.probe))


def cleaned_findings(data: RunData, clean: Cleaner) -> tuple[Finding, ...]:
    """Findings that count first, blocking ones before the rest, most memorized first; then the waived ones."""
    order = {item.probe: number for number, item in enumerate(ranked(data.measurements))}

    def key(finding: Finding) -> tuple[bool, bool, int, str, str]:
        place = order.get(finding.probe, len(order)) if finding.probe else -1
        return (finding.waiver is not None, finding.effect != "block", place, finding.rule, finding.probe or "")

    found = data.verdict.findings if data.verdict else ()
    return tuple(replace(item, message=clean(item.message)) for item in sorted(found, key=key))
