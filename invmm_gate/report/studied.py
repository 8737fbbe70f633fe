"""What the search of a run found in the models that this project trained, image by image and with known truth.

Without canaries nobody knows what a run could have found in its own model. The study (docs/studies/likelihood.md) is
what is known beside it; `python benchmarks/ladder/tables.py --write` makes its file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from invmm_gate.core.run_records import RunInputs
from invmm_gate.core.settings import InversionSettings
from invmm_gate.report.texts import count, hits, times

FILE: Final = "studied.json"
_MORE_SEARCH: Final = ("mirror",)
"""Settings under which a run searches more than the study did, and not otherwise."""
_LATER: Final = {"sampler": "grid", "image_size": None}
"""Settings that the gate has had since the study, as it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Studied:
    """Images of the study's proof models, by how often they were planted."""

    models: tuple[str, ...]
    trained_on: int
    """Images of each model's training set, repeated ones counted each time."""
    planted: tuple[tuple[int, int, int], ...]
    """(times, images found, images), ascending. Found: certified to come out once in a million generations or more."""
    never_seen: tuple[int, int]
    """(images found, images) that no model was trained on."""
    smaller: int | None
    """Pixels of their images' larger side, where the run's images are larger."""
    prompts: bool
    """Whether they are given prompts."""

    def sentences(self) -> Iterator[str]:
        """For a reader who wants to know what the run could have found."""
        rungs = "; ".join(f"{times(often)}: {hits(found, images)}" for often, found, images in self.planted)
        many = len(self.models) > 1
        models = f"{count(len(self.models))} small models" if many else "a small model"
        images = f"{count(self.trained_on)} images{' each' if many else ''}"
        given = " with a prompt that can be typed" if self.prompts else ""
        size = "" if self.smaller is None else f" Images have at most {self.smaller} pixels a side there."
        yield (
            f"Elsewhere, in {models} that this project trained on {images}, this search certified that an image comes "
            f"out once in a million generations or more{given}, by how often the image was planted: {rungs}; never: "
            f"{hits(*self.never_seen)}.{size} This model may give its images out more readily, or less."
        )


def studied(inputs: RunInputs) -> Studied | None:
    """The study of models of this kind; None where there is none, or the run searched in another way."""
    study = _studies().get(inputs.family)
    if study is None or _search(inputs) != study["search"]:
        return None
    return Studied(
        models=tuple(study["models"]),
        trained_on=study["trained_on"],
        planted=tuple((rung["times"], rung["found"], rung["images"]) for rung in study["planted"]),
        never_seen=(study["never_seen"]["found"], study["never_seen"]["images"]),
        smaller=study["largest_side"] if max(inputs.image_size) > study["largest_side"] else None,
        prompts=_has_prompts(inputs),
    )


@cache
def _studies() -> Mapping[str, Any]:
    """By family of models."""
    studies: dict[str, Any] = json.loads(files("invmm_gate.report").joinpath(FILE).read_text("utf-8"))
    return studies


def studied_settings(settings: InversionSettings) -> dict[str, object]:
    """The settings by which a search is the study's: those that the gate had when it was made."""
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in _MORE_SEARCH and _LATER.get(name, ...) != value
    }


def _search(inputs: RunInputs) -> Mapping[str, object]:
    sampled = inputs.confirm.prompts if _has_prompts(inputs) else inputs.confirm.plain_sampling
    likely, metric = inputs.confirm.likelihood, inputs.metric
    search = {
        "settings": studied_settings(inputs.settings),
        "sampling": None if sampled is None else asdict(sampled),
        "likelihood": None if likely is None else asdict(likely),
        "metric": metric.name,
        "threshold": metric.threshold,
    }
    plain: Mapping[str, object] = json.loads(json.dumps(search))  # tuples are lists in the file
    return plain


def _has_prompts(inputs: RunInputs) -> bool:
    return inputs.settings.prompt != "none"
