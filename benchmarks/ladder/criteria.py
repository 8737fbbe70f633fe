"""What counts as found, and which estimates are held against the truth, in every table of the study."""

from pathlib import Path
from typing import Final

RECORDS: Final = Path(__file__).parent / "records"
CERTIFIED: Final = 1e-6
"""Lower bound from which on an image counts as found where it was not inverted."""
COMES_OUT: Final = 5e-3
"""Share of the samples from which on an image comes out of the model, whoever draws them."""
ENOUGH: Final = 10
"""Copies among the samples of the truth from which on an estimate is held against it."""
FACTOR: Final = 3.0
"""An estimate is near where it is at most so many times the truth, or the truth so many times the estimate."""
