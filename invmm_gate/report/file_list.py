"""The files of a run folder, for the end of the report: what a reader finds beside it."""

from typing import Final

RUN_FILES: Final = (
    ("verdict.json", "the verdict with every finding, for programs"),
    ("summary.md", "the short summary for a job page"),
    ("results.sarif", "the findings for code scanning (SARIF 2.1.0)"),
    ("junit.xml", "one test case a probe, for test dashboards"),
    ("scores.csv", "one row a probe, for a spreadsheet"),
    ("scores.parquet", "the same with types, where pyarrow is installed"),
    ("public/", "report, summary and verdict with hashed names and bands for scores: what may be handed on"),
    ("public-ids.key", "the key of the hashed names; never to be handed on"),
    ("measurements.jsonl", "all that was measured, with the curves"),
    ("confirmations.jsonl", "how probes were confirmed; prompts that were found are in it"),
    ("run.json", "what was run on what; captions and paths are in it"),
    ("judged/", "what the run was judged with: policy, waivers, reviewers' keys, baseline"),
    ("attestation.json", "the signed statement, once `invmm-gate sign` made one"),
)
"""(name, what it holds)."""
