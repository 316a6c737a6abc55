"""The choke point: every number and list of a request is bounded here, before tokenizing, allocation or fan-out.

What needs the tokenizer or the model (vocabulary ids, context length) is checked by the backend at admission.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import msgspec

from adapters.backend import Backend, GenerationParams, ModelCard, TextPrompt, TokenPrompt
from oai_server.errors import ApiError, invalid
from oai_server.settings import Settings
from oai_server.wire.bounds import TOKEN_ID_MAX, check_bounds, out_of_range, shown
from oai_server.wire.constraints import requested_grammar
from oai_server.wire.sampling import SamplingFields, StreamOptions
from oai_server.wire.unsupported import refuse_unsupported

NO_OPTIONS = StreamOptions()
"""`{}`, which some clients always send."""
UNSALTABLE = frozenset("@/\\\0")
MAX_SALT_CHARS = 128


COMMON = frozenset(
    {
        *("model", "stream", "max_tokens", "n", "best_of", "seed", "echo"),
        *("temperature", "top_p", "top_k", "min_p"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty", "priority", "request_id"),
        *("return_token_ids", "return_tokens_as_token_ids"),
    }
)
"""Fields that `Validator.sampling` looks at for every request, or never."""
RARE = tuple([name for name in SamplingFields.__struct_fields__ if name not in COMMON])
"""All others: looked at if one of them is there."""

_rare = operator.attrgetter(*RARE)
_NONE = (None,) * len(RARE)


class Validator:
    """Checks requests against one server's limits and its model's."""

    def __init__(self, settings: Settings, card: ModelCard) -> None:
        self._settings = settings
        self._card = card

    def model(self, name: str | None) -> None:
        """null and "" mean the served model; an unknown name is 404."""
        if name and name not in self._card.ids:
            aliases = ", ".join(self._card.ids)
            shown = name if len(name) <= 100 else name[:100] + "..."
            message = f"The model `{shown}` does not exist. Valid aliases: {aliases}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def sampling(
        self,
        request: SamplingFields,
        *,
        max_tokens: int | None,
        max_tokens_name: str,
        logprobs: int | None,
    ) -> GenerationParams:
        """The request's sampling parameters, all in range. `logprobs`: already the number of alternatives."""
        refuse_unsupported(request)
        check_bounds(request)
        count = self._choices(request)
        self._output_length(request, max_tokens, max_tokens_name)
        self._logprobs("logprobs", logprobs)
        self.amount(max_tokens_name, count, max_tokens, logprobs)
        params = GenerationParams(
            max_tokens=max_tokens,
            n=count,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            seed=None if request.seed == -1 else request.seed,
            logprobs=logprobs,
        )
        return params if _rare(request) == _NONE else self._with_rare(request, params)

    def _with_rare(self, request: SamplingFields, params: GenerationParams) -> GenerationParams:
        """And what few requests ask for."""
        self._stream_options(request)
        self._prompt_logprobs(request)
        self._cache_salt(request.cache_salt)
        return msgspec.structs.replace(
            params,
            logit_bias=self._logit_bias(request.logit_bias),
            allowed_token_ids=self._allowed_token_ids(request.allowed_token_ids),
            bad_words=self._strings("bad_words", request.bad_words, self._settings.max_bad_words),
            min_tokens=request.min_tokens or 0,
            stop=self._strings(
                "stop", [request.stop] if isinstance(request.stop, str) else request.stop, self._settings.max_stop
            ),
            stop_token_ids=self._token_ids(
                "stop_token_ids", request.stop_token_ids, self._settings.max_stop_token_ids
            ),
            include_stop_str_in_output=bool(request.include_stop_str_in_output),
            ignore_eos=bool(request.ignore_eos),
            skip_special_tokens=request.skip_special_tokens is not False,
            prompt_logprobs=request.prompt_logprobs,
            truncate_prompt_tokens=request.truncate_prompt_tokens,
        )

    async def with_grammar(
        self, params: GenerationParams, request: SamplingFields, backend: Backend
    ) -> GenerationParams:
        """And the form that the reply must have, compiled for trial if there is room for the request."""
        settings = self._settings
        grammar = await requested_grammar(
            request,
            settings.grammar_timeout,
            max_bytes=settings.max_grammar_kib << 10,
            max_depth=settings.max_json_depth,
            check_room=lambda: backend.check_room(1),
        )
        return params if grammar is None else msgspec.structs.replace(params, grammar=grammar)

    def _choices(self, request: SamplingFields) -> int:
        """n, checked against best_of too."""
        count = 1 if request.n is None else request.n
        if count < 1:
            raise out_of_range("n", "must be at least 1", count)
        if count > self._settings.max_n:
            raise out_of_range("n", f"must be at most {self._settings.max_n}", count)
        best_of = request.best_of
        if best_of is not None and (isinstance(best_of, bool) or not isinstance(best_of, int)):
            raise invalid("Invalid type for 'best_of': Expected `int | null`.", "best_of", "invalid_type")
        if best_of is not None and best_of < count:
            raise out_of_range("best_of", f"must be at least n={count}", best_of)
        if best_of is not None and best_of > count:
            raise invalid("`best_of` greater than `n` is not supported.", "best_of", "unsupported_parameter")
        return count

    def amount(self, name: str, sequences: int, max_tokens: int | None, logprobs: int | None) -> None:
        """Output tokens of all sequences, each with its logprobs: they are kept until all are there."""
        if max_tokens is None:
            max_tokens = self._card.max_model_len if logprobs else 0
        asked = sequences * max_tokens * (1 + (logprobs or 0))
        if asked > (budget := self._settings.max_tokens_per_request):
            words = f"n * {name} * (1 + logprobs)" if logprobs else f"n * {name}"
            raise invalid(f"{words} of all prompts must be at most {budget}, got {shown(asked)}.", name)

    def prompt_amount(self, name: str, prompts: Iterable[TextPrompt | TokenPrompt], logprobs: int | None) -> None:
        """Logprobs of all prompts; a text is taken to have a token a character. `name`: who asks for them."""
        if not logprobs:
            return
        budget = self._settings.max_tokens_per_request
        asked = logprobs * sum(len(p.text) if isinstance(p, TextPrompt) else len(p.token_ids) for p in prompts)
        if asked > budget:
            raise invalid(f"{name} * prompt tokens must be at most {budget}, got {shown(asked)}.", name)

    def sequences(self, count: int, prompts: int) -> None:
        """n times prompts."""
        if prompts > self._settings.max_prompts:
            raise too_long("prompt", self._settings.max_prompts, prompts)
        if count * prompts > self._settings.max_sequences_per_request:
            limit = self._settings.max_sequences_per_request
            raise invalid(f"n times the number of prompts must be at most {limit}, got {count * prompts}.", "n")

    def _output_length(self, request: SamplingFields, max_tokens: int | None, name: str) -> None:
        longest, least = self._card.max_model_len, request.min_tokens or 0
        lowest = 0 if request.echo and name == "max_tokens" else 1
        if max_tokens is not None and max_tokens < lowest:
            raise out_of_range(name, f"must be at least {lowest}", max_tokens, tagged=True)
        if max_tokens is not None and max_tokens > longest:
            message = (
                f"{name}={shown(max_tokens)} cannot be greater than max_model_len={longest}. "
                f"Please request fewer output tokens. (parameter={name}, value={shown(max_tokens)})"
            )
            raise invalid(message, name, "context_length_exceeded")
        if least < 0:
            raise out_of_range("min_tokens", "must be greater than or equal to 0", least)
        if max_tokens is not None and least > max_tokens:
            raise out_of_range("min_tokens", f"must be less than or equal to max_tokens={max_tokens}", least)
        if least > longest:
            raise out_of_range("min_tokens", f"must be at most max_model_len={longest}", least)

    def _logprobs(self, name: str, value: int | None) -> None:
        """A number of alternatives a position. -1 (the whole vocabulary) is not on offer."""
        if value is None:
            return
        tag = f"(parameter={name}, value={shown(value)})"
        if value < 0:
            raise invalid(f"`{name}` must be a non-negative value, got {shown(value)}. {tag}", name)
        if value > (limit := self._settings.max_logprobs):
            kind = "prompt" if name == "prompt_logprobs" else "sample"
            got = f"Requested {kind} logprobs of {shown(value)}"
            raise invalid(f"{got}, which is greater than max allowed: {limit} {tag}", name)

    def chat_logprobs(self, wanted: bool | None, top: int | None) -> int | None:
        """`logprobs` and `top_logprobs` of a chat request as one number of alternatives, None for off."""
        if top is not None and top != 0 and not wanted:
            raise invalid(
                "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)", "top_logprobs"
            )
        self._logprobs("top_logprobs", top)
        return (top or 0) if wanted else None

    def _prompt_logprobs(self, request: SamplingFields) -> None:
        self._logprobs("prompt_logprobs", request.prompt_logprobs)
        if request.prompt_logprobs is not None and request.stream:
            raise invalid(
                "`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)",
                "prompt_logprobs",
            )

    @staticmethod
    def _stream_options(request: SamplingFields) -> None:
        options = request.stream_options
        if options is not None and options != NO_OPTIONS and not request.stream:
            raise invalid(
                "Stream options can only be defined when `stream=True`. (parameter=stream_options)", "stream_options"
            )

    @staticmethod
    def _cache_salt(salt: str | None) -> None:
        if salt is not None and (not 1 <= len(salt) <= MAX_SALT_CHARS or UNSALTABLE & set(salt)):
            raise invalid(
                f"Parameter 'cache_salt' must be a non-empty string of at most {MAX_SALT_CHARS} characters without "
                "'@', '/', '\\' and NUL. (parameter=cache_salt)",
                "cache_salt",
            )

    # ---- lists

    def _strings(self, name: str, strings: Sequence[str] | None, limit: int) -> tuple[str, ...]:
        if not strings:
            return ()
        if len(strings) > limit:
            raise too_long(name, limit, len(strings))
        for string in strings:
            if not string:
                raise invalid(f"{name} cannot contain an empty string.", name)
            if len(string) > self._settings.max_stop_chars:
                raise invalid(f"Strings in {name} may have at most {self._settings.max_stop_chars} characters.", name)
        return tuple(dict.fromkeys(strings))

    def _token_ids(self, name: str, ids: Sequence[int] | None, limit: int) -> tuple[int, ...]:
        """Deduplicated ids that fit a vocabulary of any size; the backend knows the real one."""
        if not ids:
            return ()
        if len(ids) > limit:
            raise too_long(name, limit, len(ids))
        check_token_ids(name, ids)
        return tuple(dict.fromkeys(ids))

    def _allowed_token_ids(self, ids: list[int] | None) -> tuple[int, ...] | None:
        if ids is None:
            return None
        if not ids:
            message = "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])"
            raise invalid(message, "allowed_token_ids")
        return self._token_ids("allowed_token_ids", ids, self._settings.max_allowed_token_ids)

    def _logit_bias(self, bias: dict[str, float] | None) -> dict[int, float]:
        if not bias:
            return {}
        if len(bias) > self._settings.max_logit_bias:
            raise too_long("logit_bias", self._settings.max_logit_bias, len(bias))
        wrong = [key[:40] for key in bias if not (key.isascii() and key.isdecimal() and len(key) <= 10)]
        if wrong:
            raise invalid(
                f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong[:10]} "
                f"(parameter=logit_bias, value={wrong[:10]})",
                "logit_bias",
            )
        check_token_ids("logit_bias", [int(key) for key in bias])
        for value in bias.values():
            if not -100 <= value <= 100:
                raise out_of_range("logit_bias", "values must be in [-100, 100]", value)
        return {int(key): value for key, value in bias.items()}


def too_long(name: str, limit: int, length: int) -> ApiError:
    return invalid(f"{name} should have at most {limit} items, got {length}.", name)


def check_token_ids(name: str, ids: Sequence[int]) -> None:
    for worst in (min(ids, default=0), max(ids, default=0)):
        if not 0 <= worst <= TOKEN_ID_MAX:
            raise invalid(f"token_id(s) [{shown(worst)}] in {name} contain out-of-vocab token ids.", name)
