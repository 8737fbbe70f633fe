"""An image that only T5's words bring out, under captions that do not say them: the real tokenizers and text encoders
of Stable Diffusion 3, tiny and random, before a denoiser in closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import Condition, NoiseLevel
from invmm_gate.core.settings import SoftEncoders
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.trials import Trial
from invmm_gate.models.adapters.prompt_encoders import Prompts
from invmm_gate.stages.soft_choices import soft_choices
from tests.measure.bench import QUICK, measure
from tests.measure.text_model import WordMixture
from tests.models.tiny_text import build

PLANTED, ABSENT = 1, 32
WORDS, TRIGGERS = ("a", "the", "cat", "dog", "of", "red", "and"), ("red", "cat")
READ = (slice(16, 20), slice(0, 40))
"""Where T5's first four tokens lie in the context: (token, feature)."""
CAPTIONS = ("red cat red cat", "the dog of a", "")
UNSAID, EACH = -40.0, 14.0
"""ln of the planted image's weight without a trigger, and what each adds: four words say it, three do not."""
SETTINGS = replace(QUICK, prompt="joint", prompt_tokens=4, temperature=0.5)


class ReadsT5(WordMixture):
    """The planted image's weight is that of the triggers among T5's words; what CLIP reads is all the same."""

    def __init__(self, images: Tensor, schedule: VariancePreserving) -> None:
        base = torch.zeros(len(images))
        base[PLANTED] = UNSAID
        super().__init__(images, schedule, base=base, affinity=torch.zeros(1, len(images)))
        self.affinity[0, PLANTED] = EACH
        self.prompts: Prompts = build("sd3_t5").model.prompts  # type: ignore[assignment]
        self.readout = self._fitted()

    def _fitted(self) -> Tensor:
        """The number of triggers, from T5's features: these are linear in its words, as the tiny network is random."""
        drawn = torch.randint(len(WORDS), (400, 4), generator=torch.Generator().manual_seed(0)).tolist()
        texts = [[WORDS[number] for number in numbers] for numbers in drawn]
        features = self._features(self.prompts.encode([" ".join(words) for words in texts]))
        counts = torch.tensor([float(sum(word in TRIGGERS for word in words)) for words in texts])
        return torch.linalg.lstsq(features, counts[:, None]).solution

    def _features(self, condition: Condition) -> Tensor:
        features = condition.tensors["context"][:, *READ].mean(dim=1)
        return torch.cat([features, torch.ones(len(features), 1)], dim=1)

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        assert condition is not None
        assert guidance_scale == 1
        return self.posterior_mean(x_t, level, self._features(condition) @ self.readout)


@pytest.fixture(scope="module")
def model(known_images: Tensor, linear_schedule: VariancePreserving) -> ReadsT5:
    return ReadsT5(known_images[:32], linear_schedule)


def inverted(model: ReadsT5, images: Tensor, number: int, encoders: SoftEncoders, caption: str) -> Trial:
    settings = replace(SETTINGS, soft_encoders=encoders)
    choices = soft_choices(model.prompts, settings)
    run = measure(model, images, [number], settings=settings, captions={number: caption}, choices=choices, slots=1)
    (inversion,) = run.inversions[number]
    return inversion.trial


def test_the_model_is_as_its_description_says(model: ReadsT5) -> None:
    found = model._features(model.prompts.encode(["red cat red cat", "red dog of cat", "the dog of a"])) @ model.readout
    torch.testing.assert_close(found.flatten(), torch.tensor([4.0, 2.0, 0.0]), atol=0.01, rtol=0)


def test_an_image_that_only_t5s_words_bring_out_is_found_whatever_its_caption_says(
    model: ReadsT5, known_images: Tensor
) -> None:
    """And each score is the same to the last bit: no caption has a part in it."""
    trials = [inverted(model, known_images, PLANTED, "all", caption) for caption in CAPTIONS]
    assert {trial.outcome for trial in trials} == {"inverted"}
    assert len({(trial.invmm, trial.steps) for trial in trials}) == 1
    assert inverted(model, known_images, ABSENT, "all", CAPTIONS[0]).outcome == "not_inverted"


def test_where_t5_reads_the_caption_it_is_found_under_its_own_one_alone(model: ReadsT5, known_images: Tensor) -> None:
    outcomes = [inverted(model, known_images, PLANTED, "clip", caption).outcome for caption in CAPTIONS]
    assert outcomes == ["inverted", "not_inverted", "not_inverted"]
