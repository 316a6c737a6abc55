"""How one request's output is to be shown, from what was asked and what the model can do."""

from __future__ import annotations

from dataclasses import replace

from adapters.backend import ChatPrompt, GenerationRequest
from adapters.output_assembler import OutputPlan
from adapters.prompts import EncodedPrompt, ModelText
from adapters.reasoning import CLOSE_TAG, OPEN_TAG
from adapters.tool_calls import PARSERS, tool_parser_factory
from engine.sampling_params import SamplingParams


def output_plan(
    request: GenerationRequest, encoded: EncodedPrompt, text: ModelText, sampling: SamplingParams
) -> OutputPlan:
    """One plan for all choices of a request."""
    params, prompt = request.params, request.prompt
    plan = OutputPlan(
        tokenizer=text.tokenizer,
        prompt_token_ids=encoded.token_ids,
        stop=params.stop,
        include_stop_str_in_output=params.include_stop_str_in_output,
        min_tokens=params.min_tokens,
        skip_special_tokens=params.skip_special_tokens,
        end_token_ids=frozenset(sampling.eos_token_ids + sampling.stop_token_ids),
        eos_token_ids=frozenset(text.eos_token_ids[:1]),
        logprobs=params.logprobs is not None,
    )
    if not isinstance(prompt, ChatPrompt):
        return plan
    plan = replace(plan, thinking=encoded.thinking, include_reasoning=prompt.include_reasoning)
    if prompt.tools and prompt.tool_choice != "none" and text.tool_format is not None:
        plan = replace(
            plan,
            call_tags=PARSERS[text.tool_format].call_tags,
            new_tool_parser=tool_parser_factory(text.tool_format, prompt.tools),
            parallel_tool_calls=prompt.parallel_tool_calls,
        )
    if plan.thinking is None and plan.new_tool_parser is None:
        return plan
    keep = (text.tokenizer.token_id(tag) for tag in (OPEN_TAG, CLOSE_TAG, *plan.call_tags))
    return replace(plan, keep_ids=frozenset(token_id for token_id in keep if token_id is not None))
