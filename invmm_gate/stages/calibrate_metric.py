"""`metric calibrate`: a metric's threshold from the controls of a probe set."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.core.settings import ENCODERS
from invmm_gate.probes.images import load_pixels
from invmm_gate.probes.validate import validate_probe_set
from invmm_gate.similarity.aligned import PixelAligned
from invmm_gate.similarity.calibrate import Calibration, calibrate
from invmm_gate.similarity.encoders import encoder_metric
from invmm_gate.similarity.pixel import PixelRmse


def calibrate_on_controls(folder: Path, *, metric: str, size: int, rate: float, sscd: Path | None) -> Calibration:
    """Calibrate on the controls, which must not be copies of one another. Raises GateError."""
    if not 0 < rate < 1:
        raise ConfigError(f"--rate {rate:g}", expected="a share between 0 and 1")
    probe_set = validate_probe_set(folder, min_controls=2)
    controls = [probe for probe in probe_set.probes if probe.group == "control"]
    pixels = [torch.from_numpy(load_pixels(probe_set, probe, height=size, width=size)) for probe in controls]
    images = torch.stack(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return calibrate(_metric(metric, size, sscd), images, false_match_rate=rate)


_PIXELS: Final[dict[str, Callable[[], CopyMetric]]] = {"pixel_rmse": PixelRmse, "pixel_aligned": PixelAligned}


def _metric(name: str, size: int, sscd: Path | None) -> CopyMetric:
    if name in _PIXELS:
        return _PIXELS[name]()
    if name.startswith(ENCODERS):
        # The threshold is what is looked for: the one that is given here decides nothing.
        return encoder_metric(name=name, threshold=1.0, image_size=(size, size), path=sscd)[0]
    raise ConfigError(
        f"--metric {name!r}", expected=f"{', '.join(_PIXELS)} or a name that begins with {' or '.join(ENCODERS)}"
    )
