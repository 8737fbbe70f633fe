"""What a soft prompt may mix: every token, those that can be typed, or words that each text encoder reads as one."""

from typing import Final

from jaxtyping import Int
from torch import Tensor

from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import PromptEncoder
from invmm_gate.core.settings import InversionSettings

LEAST_SHARE: Final = 0.05
"""Of the tokens that can be typed, each text encoder must read at least this share as one token: a soft prompt of a few
odd words would find little, and say nothing of what others bring out."""


def soft_choices(prompts: PromptEncoder, settings: InversionSettings) -> Int[Tensor, " choice"] | None:
    """Ids that a soft prompt may mix, ascending; None = all. Raises ModelError where the encoders share too few words.

    Without a soft prompt nothing is mixed, and nothing is refused.
    """
    mixed = settings.prompt in ("joint", "prompt_only")
    known = prompts.read_by_all() if mixed and settings.soft_encoders == "all" else None
    if known is None:
        return typeable_ids(prompts) if settings.vocabulary == "typeable" else None
    typed = typeable_ids(prompts)
    found = typed[known[typed]]
    if len(found) < LEAST_SHARE * len(typed):
        raise ModelError(
            f"of {len(typed):,} tokens that can be typed, all text encoders read {len(found):,} as one token",
            expected=f"at least {LEAST_SHARE:.0%} of them, which soft prompts are then made of",
            do="check the checkpoint's tokenizer files, or set measure.settings.soft_encoders to clip in the policy: "
            "then the encoders that read tokens of their own are given the caption",
        )
    return found
