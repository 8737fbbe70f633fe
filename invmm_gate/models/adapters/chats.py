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

    def rewritten(self, prompt: str) -> str:
        """The prompt as the pipeline rewrites it, before it puts it in these words."""
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

    def rewritten(self, prompt: str) -> str:
        """As it is."""
        return prompt

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
    small: bool = False
    """Whether the pipeline writes each prompt in small letters, without blanks around it."""

    def rewritten(self, prompt: str) -> str:
        """As it is, or in small letters."""
        return prompt.lower().strip() if self.small else prompt

    def written(self, tokenizer: Any, prompt: str) -> str:
        """The prompt between both parts."""
        del tokenizer
        return self.before + self.lead + self.rewritten(prompt) + self.after


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
    "SanaPipeline": FixedText(
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:\n"
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.\n"
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.\n"
        "Here are examples of how to transform or refine prompts:\n"
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers.\n"
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:\nUser Prompt:",
        lead=" ",
        small=True,
    ),
}
"""Pipeline whose prompts stand in a chat -> its words."""
