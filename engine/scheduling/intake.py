"""What may come in, and when a sequence is done: the rules a request meets before and after the model."""

from __future__ import annotations

from engine.errors import ContextLengthError, RequestError
from engine.request import EngineRequest, FinishReason, RequestFault, Sequence
from engine.runner.batch import NOT_A_NUMBER, NOTHING_ALLOWED, UNKNOWN_ID

MAX_TOKEN_ID = 2**31 - 1


def make_sequence(request: EngineRequest, number: int, max_model_len: int, capacity_tokens: int) -> Sequence:
    """The engine's record of a request. Raises RequestError for one that can never be served."""
    prompt, resumed = request.prompt_token_ids, request.resumed_token_ids
    if not prompt:
        raise RequestError("The prompt has no tokens.", "prompt")
    if min(prompt) < 0 or max(prompt) > MAX_TOKEN_ID:
        raise RequestError("The prompt holds a token id out of range.", "prompt")
    needed = len(prompt) + min(1, request.sampling.max_tokens)
    if needed > max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {max_model_len} tokens. However, your request has "
            f"{len(prompt)} input tokens. Please reduce the length of the input messages.",
            "prompt",
        )
    if needed > capacity_tokens:
        raise ContextLengthError(
            f"The prompt has {len(prompt)} tokens, but the engine's KV cache holds only {capacity_tokens}. "
            "Shorten the prompt or give the cache more memory.",
            "prompt",
        )
    return Sequence(
        request=request,
        token_ids=[*prompt, *resumed],
        num_prompt=len(prompt),
        number=number,
        max_length=min(len(prompt) + request.sampling.max_tokens, max_model_len, capacity_tokens),
        stop_ids=frozenset(request.sampling.eos_token_ids + request.sampling.stop_token_ids),
    )


def finish_reason(sequence: Sequence) -> FinishReason | None:
    """Whether the last token ended the sequence. Stop ids do not count among the first min_tokens."""
    token_ids = sequence.token_ids
    if token_ids[-1] in sequence.stop_ids:
        num_output = len(token_ids) - sequence.num_prompt
        if num_output > 0 and num_output > sequence.request.sampling.min_tokens:
            return "stop"
    return "length" if len(token_ids) >= sequence.max_length else None


def finished_before_start(sequence: Sequence) -> FinishReason | None:
    """For a resumed request that had all its tokens already, and for max_tokens = 0 without prompt logprobs."""
    if sequence.request.resumed_token_ids:
        return finish_reason(sequence)
    wants_nothing = sequence.request.sampling.max_tokens <= 0 and sequence.request.sampling.prompt_logprobs is None
    return "length" if wants_nothing else None


def fault_of_row(request: EngineRequest, reason: str) -> RequestFault | None:
    """What of a request made its row fail for this reason of `StepResult.failed`; None: the engine is to blame."""
    if reason == UNKNOWN_ID:
        return RequestFault("prompt")
    if reason == NOT_A_NUMBER:
        return None
    if request.grammar is not None:
        return RequestFault(request.grammar.param)
    if reason != NOTHING_ALLOWED:
        return None
    sampling = request.sampling
    for name in ("allowed_token_ids", "bad_words", "min_tokens"):
        if getattr(sampling, name):
            return RequestFault(name)
    return None
