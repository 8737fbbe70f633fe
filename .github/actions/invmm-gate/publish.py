"""The action's second step: outputs, job summary and annotations, all from the gate's records. Standard library alone.

The gate judges the records again and renders the reports anew: verdict.json is never read here, and what is shown is
what `invmm-gate verdict` says. It must end as `check` did, or there is no verdict. Without `details` nothing that
leaves the runner names a probe or a figure of one, as these tell membership: verdict, counts and digests alone.
Messages of findings may quote the probe set, so annotations are built from their fields in either case.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from gate import DEMANDS, environment, given, program
from job import inert, one_line, workflow_command, write_output, write_summary

DECISIONS: Final = {0: "pass", 10: "block", 11: "inconclusive"}
NO_VERDICT: Final = 1
BAD_INPUT: Final = 2
INCONCLUSIVE: Final = 11
INTERRUPTED: Final = 130
ENDINGS: Final = {BAD_INPUT: "bad input, nothing was measured", INTERRUPTED: "interrupted"}
WITHHELD: Final = "why is in the gate's log file, and may name probes; see the input details"
SUMMARY_LIMIT: Final = 1_000_000
"""Bytes; GitHub drops a step's whole summary above 1 MiB."""
MOST_ANNOTATIONS: Final = 9
"""GitHub shows 10 of a kind in one step: these and the count of the rest."""


@dataclass(frozen=True)
class Outcome:
    """How the gate ended; `verdict` is `error` where it came to none."""

    verdict: str
    exit_code: int
    why: str = ""
    """One line, where there is no verdict in the records."""
    findings: tuple[dict[str, Any], ...] = ()
    """Those that count, blocking ones first."""
    waived: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    """The verdict in all its fields, where there is one."""


def main() -> None:
    """Outputs first: should the rest fail, the job still ends by the verdict."""
    folder = Path(os.environ.get("FOLDER") or os.devnull)
    run, log, details = folder / "run", folder / "gate.log", os.environ.get("INPUT_DETAILS") == "true"
    # Anew, from records that are judged again; whoever wrote the reports that are there is not known.
    rendered = (run / "verdict.json").exists() and called(["report", str(run)], log).returncode == 0
    outcome = outcome_of(run, log, os.environ.get("EXIT_CODE", ""), rendered=rendered, details=details)
    write_output("conclusion", str(conclusion(outcome, os.environ.get("INPUT_FAIL_ON_BLOCK", ""))))
    write_output("verdict", outcome.verdict)
    write_output("exit-code", str(outcome.exit_code))
    write_output("findings", str(len(outcome.findings)))
    write_output("waived", str(outcome.waived))
    write_output("run-path", str(run) if run.is_dir() else "")
    write_output("log-path", str(log) if log.is_file() else "")
    for name, file in (("report", run / "report.html"), ("sarif", run / "results.sarif")):
        there = rendered and file.is_file()
        write_output(f"{name}-path", str(file) if there else "")
        write_output(f"{name}-upload", named_copy(file, folder) if there and details else "")
    write_summary(summary(outcome, run / "summary.md", details=details))
    annotate(outcome, run / "run.json", details=details)


def outcome_of(run: Path, log: Path, ended: str, *, rendered: bool, details: bool) -> Outcome:
    """The verdict that the records give again, if `check` ended with the same and they could be `rendered`."""
    if not ended.isdecimal():
        return Outcome("error", NO_VERDICT, "the gate did not end: an earlier step failed, or it was killed")
    code = int(ended)
    if code not in DECISIONS or (code == INCONCLUSIVE and not (run / "verdict.json").exists()):
        return Outcome(DECISIONS.get(code, "error"), code, reason(log, code, details=details))
    record = judged_again(run, log, code) if rendered else {}
    if record.get("decision") != DECISIONS[code]:
        why = f"the gate ended with {code}, and does not say so again: {reason(log, NO_VERDICT, details=details)}"
        return Outcome("error", NO_VERDICT, why)
    findings = [item for item in record.get("findings", ()) if isinstance(item, dict)]
    counted = sorted((item for item in findings if not item.get("waiver")), key=lambda item: item["effect"] != "block")
    waived = len(findings) - len(counted)
    return Outcome(DECISIONS[code], code, findings=tuple(counted), waived=waived, record=record)


def judged_again(run: Path, log: Path, code: int) -> dict[str, Any]:
    """The verdict in all its fields, from the gate that judges the records again; empty where it ends otherwise."""
    done = called(["verdict", "--json", *given(DEMANDS), str(run)], log)
    verdict = parsed(done.stdout).get("verdict") if done.returncode == code else None
    return verdict if isinstance(verdict, dict) else {}


def called(arguments: list[str], log: Path) -> subprocess.CompletedProcess[str]:
    """One call of the gate. What it says on stderr is added to `log`."""
    command = [*program(), *arguments]
    with log.open("a", encoding="utf-8") as errors:
        return subprocess.run(  # noqa: S603  (a list, no shell)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            encoding="utf-8",
            errors="replace",
            check=False,
        )


def conclusion(outcome: Outcome, fail_on_block: str) -> int:
    """The exit code of the action's last step."""
    return 0 if outcome.verdict == "block" and fail_on_block == "false" else outcome.exit_code


def summary(outcome: Outcome, own: Path, *, details: bool) -> str:
    """The gate's own summary or, without `details`, counts and digests; what is known where there is no verdict."""
    if outcome.why:
        ending = ENDINGS.get(outcome.exit_code, "no verdict")
        cleared = f"Exit code {outcome.exit_code}. The checkpoint is not cleared for release."
        return f"## {outcome.verdict.upper()}: {ending}\n\n{inert(outcome.why)}\n\n{cleared}\n"
    if not details:
        return public_summary(outcome)
    if own.is_file() and own.stat().st_size <= SUMMARY_LIMIT:
        return own.read_text(encoding="utf-8") + "\n"
    return f"## {outcome.verdict.upper()}\n\nThe summary is too long for this page; the report has all of it.\n"


def public_summary(outcome: Outcome) -> str:
    """What tells nothing of a single probe: how many findings by rule, how many probes by outcome, and of what."""
    record = outcome.record
    counts = {name: count for name, count in record.get("counts", {}).items() if isinstance(count, int)}
    tables = [
        ("Findings", {f"{rule} ({effect})": count for (rule, effect), count in by_rule(outcome).items()}),
        ("Probes", {name.replace("_", " "): count for name, count in counts.items()}),
    ]
    lines = [f"## {outcome.verdict.upper()}", "", f"Policy {inert(str(record.get('policy', '')))}."]
    for title, rows in tables:
        if rows:
            lines += ["", f"| {title} | Number |", "|---|---|", *(f"| {inert(k)} | {n} |" for k, n in rows.items())]
    digests = ("model_digest", "policy_digest", "probe_set_digest", "fingerprint")
    lines += ["", *(f"- {name.replace('_', ' ')}: {inert(str(record.get(name, '')))}" for name in digests)]
    return "\n".join(lines) + "\n"


def by_rule(outcome: Outcome) -> Counter[tuple[str, str]]:
    """How many findings count, by rule and effect; blocking ones first."""
    return Counter((str(finding["rule"]), str(finding["effect"])) for finding in outcome.findings)


def annotate(outcome: Outcome, run_record: Path, *, details: bool) -> None:
    """At most nine annotations and the count of the rest: images at their line of the manifest, or rules."""
    if outcome.why:
        ending = ENDINGS.get(outcome.exit_code, "no verdict")
        workflow_command("error", f"{ending}: {outcome.why}", title="invmm-gate")
    if details:
        annotate_findings(outcome, run_record)
    else:
        annotate_rules(outcome)


def annotate_findings(outcome: Outcome, run_record: Path) -> None:
    """One for each image, with all its rules and figures, and one for each finding about no image."""
    manifest, lines = probe_lines(run_record)
    images = by_image(outcome)
    for probe, found in images[:MOST_ANNOTATIONS]:
        line = lines.get(probe)
        place = {"file": manifest, "line": str(line)} if line else {}
        rules = ", ".join(dict.fromkeys(str(finding["rule"]) for finding in found))
        message = "; ".join(map(sentence, found))
        workflow_command(kind(found[0]["effect"]), message, **place, title=f"invmm-gate: {rules}")
    rest = sum(len(found) for _, found in images[MOST_ANNOTATIONS:])
    if rest > 0:
        workflow_command("notice", f"{rest} more findings are in the report", title="invmm-gate")


def by_image(outcome: Outcome) -> list[tuple[str, list[dict[str, Any]]]]:
    """Findings by their probe, in order; one about no probe stands alone."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number, finding in enumerate(outcome.findings):
        probe = str(finding.get("probe") or "")
        found.setdefault((probe, 0 if probe else number), []).append(finding)
    return [(probe, own) for (probe, _), own in found.items()]


def annotate_rules(outcome: Outcome) -> None:
    """How many findings each rule has."""
    found = by_rule(outcome)
    for (rule, effect), count in list(found.items())[:MOST_ANNOTATIONS]:
        workflow_command(kind(effect), f"{rule}: {count} findings", title=f"invmm-gate: {rule}")
    rest = len(found) - MOST_ANNOTATIONS
    if rest > 0:
        workflow_command("notice", f"{rest} more rules have findings", title="invmm-gate")


def kind(effect: str) -> str:
    """The kind of annotation."""
    return "error" if effect == "block" else "warning"


def sentence(finding: dict[str, Any]) -> str:
    """`planted-3 breaks invmm_below: 0.0123, limit 0.05`."""
    what = f"{finding.get('probe') or 'the run'} breaks {finding['rule']}"
    figures = [("", finding.get("value")), ("limit ", finding.get("limit"))]
    known = [f"{label}{figure:.3g}" for label, figure in figures if isinstance(figure, (int, float))]
    return f"{what}: {', '.join(known)}" if known else what


def probe_lines(run_record: Path) -> tuple[str, dict[str, int]]:
    """The manifest's path in the checkout and each probe's line in it; no lines for a manifest that lies elsewhere."""
    checkout = Path(os.environ["GITHUB_WORKSPACE"]).resolve()
    manifest = (checkout / os.environ.get("INPUT_PROBES", "") / "manifest.csv").resolve()
    if not manifest.is_file() or not manifest.is_relative_to(checkout):
        return "", {}
    probes = loaded(run_record).get("probe_set", {}).get("probes", ())
    return manifest.relative_to(checkout).as_posix(), {item["id"]: int(item["line"]) for item in probes}


def reason(log: Path, code: int, *, details: bool) -> str:
    """Why there is no verdict. Without `details` only what cannot be about a probe: an error may name one, or quote."""
    said = last_error(log)
    probes = os.environ.get("INPUT_PROBES") or "probe"
    about_probes = "probe" in said.lower() or probes in said
    return said if details or code == INTERRUPTED or (code == BAD_INPUT and not about_probes) else WITHHELD


def last_error(log: Path) -> str:
    """The line in which the gate says what was wrong, and the numbered faults below it where there are several."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    said = [place for place, line in enumerate(lines) if re.match(r"(internal )?error: |interrupted: ", line)]
    if not said:
        return "it gave no reason; see the gate's log"
    first, *others = lines[said[-1] :]
    return one_line(" ".join([first, *takewhile(lambda line: re.match(r"  \d+\. ", line), others)]))


def named_copy(file: Path, folder: Path) -> str:
    """A copy under a name that no other upload has; a single file that is uploaded names its artifact."""
    model = str(loaded(file.parent / "run.json").get("model", {}).get("name", ""))
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", model)[:60].strip("-") or "model"
    copy = folder / f"invmm-gate-{safe}-{secrets.token_hex(4)}-{file.name}"
    shutil.copyfile(file, copy)
    return str(copy)


def loaded(path: Path) -> dict[str, Any]:
    """The JSON object in the file; empty if there is none."""
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def parsed(text: str) -> dict[str, Any]:
    """The JSON object that the text is; empty if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    main()
