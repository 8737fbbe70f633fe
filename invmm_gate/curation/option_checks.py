"""The choices of `probes build`, checked before an image is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import BuildOptions
from invmm_gate.curation.training_entries import ROLES, Columns

CONTROLS: Final = 32
"""Controls that are drawn, if there are so many, where images for them are given and no number is."""
ENOUGH_CONTROLS: Final = 16
"""What the policies strict and standard need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many controls are drawn."""

    least: int
    """Fewer are an error."""
    most: int

    def __str__(self) -> str:
        return f"{self.most}, as --controls asks" if self.least == self.most else f"at least {self.least}"


def controls_wanted(options: BuildOptions) -> Wanted:
    """Raises ConfigError for controls without images to draw them from."""
    given = bool(options.controls_from) or options.trained_until is not None
    if options.controls and not given:
        raise ConfigError(
            f"--controls {options.controls} without images to draw them from",
            expected="images that the model cannot have seen",
            do="name them with --controls-from FOLDER, or give --trained-until DATE and a date column",
        )
    if options.controls is None and given:
        return Wanted(least=1, most=CONTROLS)
    return Wanted(least=options.controls or 0, most=options.controls or 0)


def check_libraries() -> None:
    """Raises ConfigError without scikit-learn, which is needed only when every image was read."""
    try:
        import sklearn  # noqa: F401  (whether it is there)
    except ImportError as error:
        raise ConfigError(
            "scikit-learn is not installed",
            expected="the extra `curation`",
            do="run `pip install 'invmm-gate[curation]'`",
        ) from error


def columns_named(texts: Sequence[str]) -> dict[str, str]:
    """Role -> column, from what `--column` says. Raises ConfigError for a text or a role that is none."""
    pairs = [text.partition("=") for text in texts]
    for (role, equals, name), text in zip(pairs, texts, strict=True):
        if not (role and equals and name):
            raise ConfigError(f"--column {text!r}", expected="ROLE=NAME, such as path=file_name")
        if role not in ROLES:
            raise ConfigError(f"--column {role}=...", expected=f"one of {', '.join(ROLES)} before the =")
    return {role: name for role, _, name in pairs}


def check_options(options: BuildOptions) -> None:
    """Raises ConfigError for a number out of range."""
    if not 1 <= options.diameter <= 2:
        raise ConfigError(f"--diameter {options.diameter:g}", expected="1 to 2 copy thresholds")
    if options.class_folders and len(options.sources) > 1:
        raise ConfigError(
            f"--class-folders with {len(options.sources)} sources",
            expected="one folder, whose folders are numbered: each source would begin with class 0 again",
            do="put the classes into one folder, or list the images with their labels in a table",
        )
    if options.size is not None and options.size < 1:
        raise ConfigError(f"--size {options.size}", expected="at least 1 pixel")


def columns_of(options: BuildOptions) -> tuple[Columns, Columns]:
    """How the tables of training data are read, and those of controls, which need no date, no mark and no label."""
    marked_by, equals, value = options.sensitive_column.partition("=")
    training = Columns(
        names=options.columns,
        dated=options.trained_until is not None,
        marked_by=marked_by,
        marked_value=value if equals else None,
        class_folders=options.class_folders,
    )
    names = {role: name for role, name in options.columns.items() if role not in ("date", "label")}
    return training, Columns(names=names)
