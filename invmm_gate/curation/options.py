"""What `probes build` is asked to do, and what can be refused before an image is read."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Fit
from invmm_gate.curation.training_entries import ROLES, Columns
from invmm_gate.probes.images import View

CONTROLS: Final = 32
"""Controls that are drawn, if there are so many, where images for them are given and no number is."""
ENOUGH_CONTROLS: Final = 16
"""What the policies strict and standard need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The choices of a `probes build` command."""

    folder: Path
    sources: tuple[Path, ...]
    metric: str = "pixel_rmse"
    sscd: Path | None = None
    size: int | None = None
    """Side at which images are compared; by default 32 for pixels, 320 for SSCD."""
    threshold: float | None = None
    """Copy threshold; by default the metric's own."""
    diameter: float = 1.0
    """Largest diameter of a cluster, in copy thresholds (as distances)."""
    duplicated: int = 32
    sensitive: Path | None = None
    """A file that lists sensitive images, one path a line."""
    sensitive_column: str = ""
    """NAME or NAME=VALUE."""
    controls: int | None = None
    controls_from: tuple[Path, ...] = ()
    trained_until: datetime.date | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    images: Path | None = None
    """Where the paths in all tables begin, those of controls too; by default each table's folder."""
    category: str = ""
    licence: str = ""
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    strict: bool = False
    fit: Fit = ""
    """How training brought images to the model's size."""
    both_orientations: bool = False
    """Whether an image that its EXIF orientation turns becomes two probes; by default it is left out."""

    @property
    def view(self) -> View:
        """How training images that are turned are read."""
        return "stored" if self.both_orientations else "plain"


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


def check_options(options: BuildOptions) -> None:
    """Raises ConfigError for a number out of range or an unknown role of a column."""
    unknown = sorted(set(options.columns) - set(ROLES))
    if unknown:
        raise ConfigError(f"--column {unknown[0]}=...", expected=f"one of {', '.join(ROLES)} before the =")
    if not 1 <= options.diameter <= 2:
        raise ConfigError(f"--diameter {options.diameter:g}", expected="1 to 2 copy thresholds")
    if options.size is not None and options.size < 1:
        raise ConfigError(f"--size {options.size}", expected="at least 1 pixel")


def columns_of(options: BuildOptions) -> tuple[Columns, Columns]:
    """How the tables of training data are read, and those of controls, which need no date and no mark."""
    marked_by, equals, value = options.sensitive_column.partition("=")
    training = Columns(
        names=options.columns,
        dated=options.trained_until is not None,
        marked_by=marked_by,
        marked_value=value if equals else None,
    )
    return training, Columns(names={role: name for role, name in options.columns.items() if role != "date"})
