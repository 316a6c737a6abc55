"""Where this server answers differently from vLLM on purpose, each with its reason.

Paths are as `compare.key_paths` makes them: dots between keys, `[]` for the elements of a list.
"""

from __future__ import annotations

ONLY_PEER: dict[str, str] = {
    "kv_transfer_params": "vLLM's disaggregated serving; there is nothing to transfer here",
    "ec_transfer_params": "vLLM's encoder cache transfer",
    "metrics": "always null in vLLM",
    "choices[].routed_experts": "internal to vLLM",
}
"""Keys that vLLM sends and this server may leave out."""

ONLY_OURS: dict[str, str] = {
    "choices[].message.reasoning_content": "the name most clients know; vLLM sends `reasoning` only",
    "choices[].logprobs.refusal": "required by OpenAI's schema",
    "usage.prompt_tokens_details": "cached tokens are told without a flag",
    "usage.completion_tokens_details": "OpenAI always sends it",
    "choices[].delta.reasoning_content": "the name most clients know",
}
"""Keys that this server sends beyond vLLM's."""

UNCOMPARED = {
    "prompt_logprobs": "vLLM fills it for echo with logprobs too; here only a request for prompt_logprobs does",
}
"""Keys whose values are not compared where this server sends null."""

PARAMS = {
    "logprobs": {"top_logprobs"},
    "prompt": {"messages"},
}
"""vLLM's name of a parameter at fault -> names that this server may give instead, closer to what was sent."""

STATUS: dict[str, tuple[int, int, str]] = {
    "unsupported_media_type": (415, 400, "415 is what the status is for"),
    "greedy_n": (200, 400, "OpenAI allows n > 1 with temperature 0"),
    "tools_empty": (200, 400, "agent frameworks send an empty list for no tools"),
    "retrieve_model": (200, 404, "vLLM has no GET /v1/models/{id}"),
    "continue_final_message": (200, 400, "vLLM refuses it because the default of the other flag is true"),
}
"""Case id -> (ours, vLLM's, reason)."""

seen: dict[str, str] = {}
"""Those that a run has met, for its summary."""
