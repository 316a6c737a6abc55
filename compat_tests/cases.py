"""The requests that go to both sides. Greedy unless a case is about its status alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Case:
    id: str
    path: str
    body: dict[str, Any]


def _chat(id_: str, **fields: Any) -> Case:
    body = {"messages": HELLO, "temperature": 0, "max_tokens": 16, **fields}
    return Case(id_, CHAT, {key: value for key, value in body.items() if value is not ...})


def _text(id_: str, **fields: Any) -> Case:
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 16, **fields}
    return Case(id_, TEXT, {key: value for key, value in body.items() if value is not ...})


WHOLE = [
    _chat("chat"),
    _chat("chat_no_limit", max_tokens=..., max_completion_tokens=64),
    _chat("chat_both_limits", max_tokens=4, max_completion_tokens=7),
    _chat("chat_system", messages=[{"role": "system", "content": "Be brief."}, *HELLO]),
    _chat("chat_parts", messages=[{"role": "user", "content": [{"type": "text", "text": "Count from 1 to 5."}]}]),
    _chat(
        "chat_turns", messages=[*HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Ok?"}]
    ),
    _chat("chat_logprobs", logprobs=True, top_logprobs=3, max_tokens=6),
    _chat("chat_logprobs_only", logprobs=True, max_tokens=4),
    _chat("chat_stop", messages=[{"role": "user", "content": "Count from 1 to 9."}], stop=["4"], max_tokens=40),
    _chat("chat_stop_kept", stop="a", include_stop_str_in_output=True, max_tokens=40),
    _chat("chat_unknown_field", made_up_field={"a": 1}),
    _chat("chat_ignored_fields", store=True, metadata={"a": "b"}, service_tier="auto", user="someone"),
    _chat("chat_no_thinking", chat_template_kwargs={"enable_thinking": False}),
    _chat("chat_token_ids", return_token_ids=True, max_tokens=5),
    _chat("chat_logit_bias", logit_bias={"20": 5.0}, max_tokens=6),
    _chat("chat_ignore_eos", ignore_eos=True, max_tokens=24),
    _chat("chat_min_tokens", min_tokens=8, max_tokens=12),
    _chat("chat_repetition_penalty", repetition_penalty=1.3, max_tokens=12),
    _chat("chat_presence_penalty", presence_penalty=1.0, frequency_penalty=0.5, max_tokens=12),
    _text("text"),
    _text("text_default_limit", max_tokens=...),
    _text("text_list", prompt=["Hello", "AI is"]),
    _text("text_ids", prompt=[40, 41, 42]),
    _text("text_id_lists", prompt=[[40, 41, 42], [50, 51]]),
    _text("text_logprobs", logprobs=2, max_tokens=5),
    _text("text_logprobs_zero", logprobs=0, max_tokens=5),
    _text("text_echo", echo=True),
    _text("text_echo_logprobs", echo=True, logprobs=1, max_tokens=3),
    _text("text_prompt_logprobs", prompt_logprobs=1, max_tokens=2),
    _text("text_stop", stop=["."], max_tokens=60),
    _text("text_stop_token", stop_token_ids=[13], max_tokens=60),
    _text("text_allowed", allowed_token_ids=[20, 21, 22], max_tokens=4),
    _text("text_top_k_one", temperature=1.0, top_k=1),
]

STREAMS = [
    _chat("stream_chat", stream=True),
    _chat("stream_chat_usage", stream=True, stream_options={"include_usage": True}),
    _chat("stream_chat_logprobs", stream=True, logprobs=True, top_logprobs=2, max_tokens=5),
    _chat("stream_chat_stop", stream=True, stop=["."], max_tokens=60),
    _chat(
        "stream_continuous_usage", stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ),
    _text("stream_text", stream=True),
    _text("stream_text_usage", stream=True, stream_options={"include_usage": True}),
    _text("stream_text_list", stream=True, prompt=["Hello", "AI is"]),
    _text("stream_text_logprobs", stream=True, logprobs=2, max_tokens=5),
    _text("stream_text_echo", stream=True, echo=True, max_tokens=4),
]

TOOLS = [
    _chat(
        "tools",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        max_tokens=80,
    ),
    _chat("tools_none", messages=HELLO, tools=[WEATHER], tool_choice="none"),
    _chat(
        "tools_stream",
        messages=[{"role": "user", "content": "Weather in Rome?"}],
        tools=[WEATHER],
        stream=True,
        max_tokens=80,
    ),
]

ERRORS = [
    _chat("model_unknown", model="no-such-model"),
    _chat("messages_empty", messages=[]),
    _chat("messages_missing", messages=...),
    _chat("messages_object", messages={}),
    _chat("temperature_high", temperature=2.5),
    _chat("temperature_text", temperature="hot"),
    _chat("top_p_zero", temperature=1, top_p=0),
    _chat("top_p_high", temperature=1, top_p=1.1),
    _chat("top_k_negative", temperature=1, top_k=-2),
    _chat("min_p_high", temperature=1, min_p=2),
    _chat("presence_high", presence_penalty=3),
    _chat("frequency_low", frequency_penalty=-3),
    _chat("repetition_zero", repetition_penalty=0),
    _chat("n_zero", n=0),
    _chat("max_tokens_zero", max_tokens=0),
    _chat("max_tokens_huge", max_tokens=10**6),
    _chat("logprobs_missing", top_logprobs=2),
    _chat("top_logprobs_high", logprobs=True, top_logprobs=21),
    _chat("stop_five", stop=["a", "b", "c", "d", "e"]),
    _chat("stop_empty", stop=[""]),
    _chat("stream_options_alone", stream_options={"include_usage": True}),
    _chat("logit_bias_word", logit_bias={"word": 1}),
    _chat("logit_bias_range", logit_bias={"999999": 1}),
    _chat("min_tokens_above", min_tokens=50, max_tokens=5),
    _chat("tool_choice_alone", tool_choice="required"),
    _chat("tools_empty", tools=[]),
    _chat("greedy_n", n=2),
    _chat(
        "continue_final_message",
        messages=[*HELLO, {"role": "assistant", "content": "I am"}],
        continue_final_message=True,
    ),
    _chat("seed_range", seed=2**63),
    _chat("prompt_too_long", messages=[{"role": "user", "content": "word " * 30000}]),
    _text("prompt_empty", prompt=""),
    _text("prompt_empty_list", prompt=[]),
    _text("prompt_missing", prompt=...),
    _text("prompt_range", prompt=[10**7]),
    _text("prompt_negative", prompt=[-1]),
    _text("prompt_mixed", prompt=["a", 1]),
    _text("logprobs_high", logprobs=21),
    _text("max_tokens_negative", max_tokens=-1),
    _text("allowed_empty", allowed_token_ids=[]),
    _text("stop_token_range", stop_token_ids=[10**7]),
]
