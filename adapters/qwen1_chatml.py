"""Qwen 1's conversations. Its checkpoints bring no template; the rule is the official make_context's: ChatML."""

from __future__ import annotations

from adapters.backend import ChatPrompt
from adapters.chat_templates import NO_TOOLS, RenderedChat
from adapters.messages import TemplateTraits, normalise_messages
from adapters.patience import Patience
from adapters.tool_calls import ToolFormat
from engine.errors import RequestError
from engine.text.tokenizer import Tokenizer

DEFAULT_SYSTEM = "You are a helpful assistant."


class Qwen1ChatML:
    """`<|im_start|>role\\ncontent<|im_end|>` a turn; role and content are encoded apart, as plain text."""

    supports_thinking = False
    tool_format: ToolFormat | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = tokenizer.added_tokens["<|im_start|>"]
        self._end = tokenizer.added_tokens["<|im_end|>"]
        self._newline = tokenizer.encode("\n")

    def render(self, prompt: ChatPrompt, cache_salt: str = "", patience: Patience | None = None) -> RenderedChat:
        """Raises RequestError with the place in the messages."""
        if prompt.tools and prompt.tool_choice != "none":
            raise RequestError(NO_TOOLS, "tools")
        messages = normalise_messages(prompt.messages, TemplateTraits(late_system=False))
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
        token_ids: list[int] = []
        texts: list[str] = []
        for i, message in enumerate(messages):
            role = "user" if message["role"] == "tool" else message["role"]
            turn = f"{role}\n{message['content']}"
            is_open = prompt.continue_final_message and i == len(messages) - 1
            texts.append(f"<|im_start|>{turn}" if is_open else f"<|im_start|>{turn}<|im_end|>\n")
            token_ids += [self._start, *self._tokenizer.encode(role), *self._newline]
            token_ids += self._tokenizer.encode(message["content"])
            token_ids += [] if is_open else [self._end, *self._newline]
        if prompt.add_generation_prompt and not prompt.continue_final_message:
            texts.append("<|im_start|>assistant\n")
            token_ids += [self._start, *self._tokenizer.encode("assistant"), *self._newline]
        return RenderedChat("".join(texts), tuple(token_ids))
