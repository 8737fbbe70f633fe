"""`--fit` and `--orientation` of `probes add` and `probes build`: which pixels training looked at."""

from typing import Annotated

import typer

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import FITS, Fit

FitOption = Annotated[
    str,
    typer.Option(
        help="How training brought images to the model's size: exact, crop, squeeze or pad. Images of another shape"
        " than the model's need it."
    ),
]
OrientationOption = Annotated[
    str,
    typer.Option(help="Images that their EXIF orientation turns: refuse, or both (two probes, as stored and upright)."),
]


def known_fit(text: str) -> Fit:
    """Raises ConfigError for an unknown one."""
    if not text:
        return ""
    known = next((fit for fit in FITS if fit == text), None)
    if known is None:
        raise ConfigError(f"--fit {text!r}", expected="one of " + ", ".join(FITS))
    return known


def is_both(text: str) -> bool:
    """Whether turned images become two probes each. Raises ConfigError for another word than refuse and both."""
    if text not in ("refuse", "both"):
        raise ConfigError(f"--orientation {text!r}", expected="refuse or both")
    return text == "both"
