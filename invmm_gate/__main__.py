"""`python -m invmm_gate`."""

from invmm_gate.cli import main

main()
