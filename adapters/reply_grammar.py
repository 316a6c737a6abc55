"""Which grammar a whole reply obeys: the request's own, or that of its tool calls."""

from __future__ import annotations

import math

from adapters.backend import ChatPrompt, GenerationRequest
from adapters.call_grammars import forced_call_grammar, possible_call_grammar
from adapters.grammars import after_thinking
from adapters.reasoning import ThinkingState
from adapters.tool_calls import ToolFormat
from engine.errors import RequestError
from engine.request import GrammarSpec


def request_grammar(
    request: GenerationRequest,
    thinking: ThinkingState | None,
    tool_format: ToolFormat | None,
    timeout_s: float = math.inf,
) -> GrammarSpec | None:
    """The grammar of the whole output: the request's own or that of its tool calls, begun where thinking ends.

    `tool_format`: None where the vocabulary has no tokens around calls, too. Raises RequestError when calls cannot be
    forced, or when the tools' schemas take longer than `timeout_s` to compile.
    """
    prompt, grammar = request.prompt, request.params.grammar
    if not isinstance(prompt, ChatPrompt):
        return grammar
    if prompt.forces_call:
        if tool_format is None:
            raise RequestError("This model's tool calls cannot be forced.", "tool_choice")
        choice = prompt.tool_choice
        wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
        tools = [tool for tool in prompt.tools if wanted in (None, tool["function"]["name"])]
        parallel = prompt.parallel_tool_calls and wanted is None
        grammar = forced_call_grammar(tool_format, tools, parallel=parallel, timeout_s=timeout_s)
    elif tool_format is not None and grammar is None and prompt.offers_strict_tools:
        grammar = possible_call_grammar(
            tool_format, prompt.tools, parallel=prompt.parallel_tool_calls, timeout_s=timeout_s
        )
    return after_thinking(grammar, thinking) if grammar is not None else None
