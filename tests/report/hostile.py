"""Text that a stranger could put into a name, a caption or a message."""

from tests.report.test_to_html import HOSTILE

FORMULAS = (
    "=cmd|'/c calc'!A1",
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "＝1+1",
    "a;=1+1",
    'a,"=1+1',
    '";=HYPERLINK("https://evil.example","x")',
    '=HYPERLINK("https://evil.example";"x")\n=1+1',
)
ALL = (
    *HOSTILE,
    *FORMULAS,
    "::error file=x::y",
    "{0}{{1}}",
    "[text](https://evil.example)",
    "]]>&lt;failure/>",
    "\ufffe\uffff",
    "x" * 1_000_000,
    "\x00" * 100_000,
    "",
)
