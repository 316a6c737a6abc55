"""Settings of the engine's backend: what is served, and how much of it at a time."""

from __future__ import annotations

import msgspec


class BackendLimits(msgspec.Struct, frozen=True):
    """Bounds on what one request may ask for, and on what waits in all fronts of an engine together."""

    max_waiting_requests: int = 1024
    """Sequences that wait for their first step, once the engine runs all that it can at a time."""
    max_waiting_tokens: int = 16 << 20
    """Prompt tokens of waiting sequences."""
    max_queue_wait_s: float = 300.0
    """A request that has not been in a step by then is refused; 0: it may wait for ever."""
    max_restart_wait_s: float = 60.0
    """How long a new request waits for an engine that restarts."""
    max_deadline_s: float = 3600.0
    """Deadline of requests that bring none of their own; 0: none."""
    max_unread_tokens: int = 16_384
    """Tokens that a stream's consumer may leave unread ..."""
    max_unread_s: float = 60.0
    """... if it has not come for them for this long; then the request is cancelled."""
    template_timeout_s: float = 2.0
    """How long rendering a chat template may take."""
    grammar_timeout_s: float = 5.0
    """How long the grammars of one request's tools may take to compile."""
    max_n: int = 128
    max_logprobs: int = 20
    max_stop: int = 4
    max_stop_chars: int = 4096
    max_stop_token_ids: int = 128
    max_bad_words: int = 128
    max_logit_bias: int = 300
    max_allowed_token_ids: int = 4096


class BackendOptions(msgspec.Struct, frozen=True):
    """How one model is served."""

    served_names: tuple[str, ...] = ()
    """Ids of the model card; empty: the folder's name."""
    generation_config: str = "auto"
    """auto: the model's own generation_config.json; vllm: neutral values; else a folder that has one."""
    chat_template: str | None = None
    """File with a chat template that replaces the model's own."""
    tool_call_parser: str = "auto"
    """How the model writes tool calls: auto (from its template), hermes, qwen3_coder (or qwen3_xml) or none."""
    reasoning_parser: str = "auto"
    """auto: thinking is split from the answer where the template knows it; none: never."""
    default_chat_template_kwargs: dict[str, bool | int | float | str] = {}
    limits: BackendLimits = BackendLimits()
