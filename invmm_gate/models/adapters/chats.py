"""The words in which pipelines put each prompt: the chat template of a tokenizer, or a text of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, final


class Chat(Protocol):
    """The words in which a pipeline puts each prompt, before and after it."""

    @property
    def lead(self) -> str:
        """The end of the words before, which the tokenizer reads as a part of the prompt: a blank, or nothing."""
        ...

    def written(self, tokenizer: Any, prompt: str) -> str:
        """The prompt as the pipeline hands it to the tokenizer."""
        ...


@final
@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """The chat template of the checkpoint's own tokenizer, and what the pipeline tells it."""

    options: Mapping[str, object]

    @property
    def lead(self) -> str:
        """Nothing: published templates end a line, or with a token of their own."""
        return ""

    def written(self, tokenizer: Any, prompt: str) -> str:
        """The prompt as a user's message. Raises whatever the template raises."""
        message = [{"role": "user", "content": prompt}]
        text: str = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **self.options)
        return text


@final
@dataclass(frozen=True, slots=True)
class FixedText:
    """A text of the pipeline's own."""

    before: str
    after: str = ""
    lead: str = ""

    def written(self, tokenizer: Any, prompt: str) -> str:
        """The prompt between both parts."""
        del tokenizer
        return self.before + self.lead + prompt + self.after


CHATS: Final[Mapping[str, Chat]] = {
    "ZImagePipeline": OwnTemplate({"enable_thinking": True}),
    "Flux2KleinPipeline": OwnTemplate({"enable_thinking": False}),
    "QwenImagePipeline": FixedText(
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Lumina2Pipeline": FixedText(
        "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
        "based on textual prompts or user prompts. <Prompt Start>",
        lead=" ",
    ),
}
"""Pipeline whose prompts stand in a chat -> its words."""
