"""Waivers: owned, expiring exceptions. They never remove a finding, and never cover what could not be decided."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator, model_validator

from invmm_gate.core.verdict_records import Finding, Waiver, WaiverState
from invmm_gate.files.strict_model import StrictModel, nearest, parse
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.policy.field_types import Digest
from invmm_gate.policy.rules.known import RULES

Sentence = Annotated[str, Field(strict=True, min_length=1, max_length=1000, pattern=r"\S")]


def _as_date(value: object) -> object:
    # fromisoformat also reads 20260131 and 2026-W05-6; a date in a waiver has one spelling.
    if not isinstance(value, str) or len(value) != 10 or "W" in value:
        raise ValueError(f"found {str(value)[:40]!r}, expected a date YYYY-MM-DD")
    try:
        return datetime.date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"found {value!r}, expected a date YYYY-MM-DD that exists") from error


class _WaiverEntry(StrictModel):
    probe: Sentence | None = None
    rule: Sentence | None = None
    model: Digest | None = None
    image: Digest | None = None
    reason: Sentence
    owner: Sentence
    expires: Annotated[datetime.date, BeforeValidator(_as_date)]

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str | None) -> str | None:
        if rule is not None and rule not in RULES:
            raise ValueError(f"{rule!r} is no rule that can be waived; {nearest(rule, RULES)}")
        return rule

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.probe is None and self.rule is None:
            raise ValueError("a waiver must name a probe, a rule, or both")
        return self


_WAIVERS: Final = TypeAdapter(tuple[_WaiverEntry, ...])


def load_waivers(path: Path | str) -> tuple[Waiver, ...]:
    """Read waivers.yaml: a list of {probe and/or rule, reason, owner, expires}. Raises ConfigError with FILE:LINE.

    An entry with `model`, a model's digest, is for that model alone, one with `image`, a sha256, for that image alone.
    """
    document = load_document(Path(path))
    entries = parse(_WAIVERS, document)
    return tuple(
        Waiver(
            reason=entry.reason,
            owner=entry.owner,
            expires=entry.expires,
            probe=entry.probe,
            rule=entry.rule,
            model=entry.model,
            image=entry.image,
            line=document.line((index,)),
        )
        for index, entry in enumerate(entries)
    )


def is_valid(waiver: Waiver, today: datetime.date) -> bool:
    """Valid through the day `expires` itself, and only if it names something, a reason and an owner."""
    named = waiver.probe is not None or waiver.rule is not None
    return named and bool(waiver.reason.strip()) and bool(waiver.owner.strip()) and today <= waiver.expires


def covers(waiver: Waiver, finding: Finding) -> bool:
    """Whether a waiver speaks of this finding: only a block by a rule can be waived."""
    return (
        finding.effect == "block"
        and finding.rule in RULES
        and (waiver.probe is None or waiver.probe == finding.probe)
        and (waiver.rule is None or waiver.rule == finding.rule)
    )


def is_for(waiver: Waiver, model: str) -> bool:
    """Whether a waiver may speak of the model with this digest."""
    return waiver.model is None or waiver.model == model


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverTerms:
    """Under what a waiver counts."""

    model: str
    """Digest of the model that is judged."""
    today: datetime.date
    approval: bool
    """Whether a reviewer must have signed it."""
    images: Mapping[str, str]
    """Probe -> sha256 of its image."""

    def allow(self, waiver: Waiver) -> bool:
        """Whether the waiver may speak at all."""
        fits = is_for(waiver, self.model) and self.shows(waiver)
        return fits and is_valid(waiver, self.today) and not self.lacks_approval(waiver)

    def shows(self, waiver: Waiver) -> bool:
        """Whether its probe shows the image that it is for."""
        return waiver.image is None or self.images.get(waiver.probe or "") == waiver.image

    def lacks_approval(self, waiver: Waiver) -> bool:
        """Whether a signature is asked for and not there."""
        return self.approval and waiver.approved_by is None


def apply_waivers(findings: Sequence[Finding], waivers: Sequence[Waiver], terms: WaiverTerms) -> tuple[Finding, ...]:
    """The same findings, each with the first valid waiver that covers it."""
    valid = [waiver for waiver in waivers if terms.allow(waiver)]
    return tuple(
        replace(finding, waiver=next((waiver for waiver in valid if covers(waiver, finding)), None))
        for finding in findings
    )


def waiver_states(
    findings: Sequence[Finding], waivers: Sequence[Waiver], terms: WaiverTerms
) -> tuple[WaiverState, ...]:
    """The state of each waiver, in the order given."""
    return tuple(_state(waiver, findings, terms) for waiver in waivers)


def _state(waiver: Waiver, findings: Sequence[Finding], terms: WaiverTerms) -> WaiverState:
    if not is_valid(waiver, terms.today):
        return WaiverState(waiver=waiver, state="expired")
    if not is_for(waiver, terms.model):
        return WaiverState(waiver=waiver, state="other_model")
    if waiver.probe is not None and waiver.probe not in terms.images:
        return WaiverState(waiver=waiver, state="unknown_probe")
    if not terms.shows(waiver):
        return WaiverState(waiver=waiver, state="other_image")
    if terms.lacks_approval(waiver):
        return WaiverState(waiver=waiver, state="unapproved")
    used = any(covers(waiver, finding) for finding in findings)
    return WaiverState(waiver=waiver, state="used" if used else "unused")
