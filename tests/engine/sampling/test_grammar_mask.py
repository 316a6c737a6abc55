from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch

from engine.errors import RequestError
from engine.request import EngineRequest, GrammarSpec, Sequence
from engine.sampling.grammar_mask import GrammarCompiler, GrammarState
from engine.sampling.row_grammars import RowGrammars
from engine.sampling_params import SamplingParams
from tests.support.qwen_data import qwen_data, qwen_tokenizer

qwen_data()
TOKENIZER = qwen_tokenizer("qwen3")
ENDS = (151645, 151643)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
)


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, ENDS)


def allowed(state: GrammarState) -> set[int]:
    bits = np.unpackbits(state.mask().numpy().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def walk(state: GrammarState, text: str) -> GrammarState:
    for token_id in TOKENIZER.encode(text, control_tokens=True):
        word = int(state.mask()[token_id >> 5])
        assert word >> (token_id & 31) & 1, TOKENIZER.token_text(token_id)
        state.accept(token_id)
    return state


@pytest.mark.parametrize(
    ("kind", "text", "reply"),
    [
        ("json_schema", SCHEMA, '{"name": "Bob 你好", "n": 12}'),
        ("json_schema", "true", '[1, {"a": null}]'),
        ("json_object", "", '{"a": [1, 2]}'),
        ("choice", '["yes", "no", "是"]', "是"),
        ("regex", r"\d{3}-\d{4}", "123-4567"),
        ("lark", 'start: "a" rest\nrest: /[xy]{2}/', "axy"),
        (
            "llguidance",
            '{"grammars": [{"lark_grammar": "start: @a"}, {"name": "a", "lark_grammar": "start: /ab/"}]}',
            "ab",
        ),
    ],
)
def test_a_reply_of_the_form_passes_and_then_only_the_end(kind: str, text: str, reply: str) -> None:
    spec = GrammarSpec(kind, text)  # type: ignore[arg-type]
    state = walk(compiler().start(spec), reply)
    assert state.finished
    assert allowed(state) == set(ENDS)
    state.accept(ENDS[0])
    assert state.finished


def test_what_the_form_forbids_is_masked() -> None:
    state = walk(compiler().start(GrammarSpec("json_schema", SCHEMA)), '{"name": "Bob", "n": ')
    assert not allowed(state) & {*TOKENIZER.encode('"'), *TOKENIZER.encode("}"), *ENDS, 151657}
    with pytest.raises(RequestError, match="cannot be followed"):
        state.accept(TOKENIZER.encode('"')[0])


def test_control_tokens_are_in_no_text() -> None:
    state = walk(compiler().start(GrammarSpec("json_schema", SCHEMA)), '{"name": "')
    assert not allowed(state) & set(TOKENIZER.added_tokens.values())


@pytest.mark.parametrize("text", ["<tool_call>", "a<think>b", "e\u0301e\u0301x", "\u212b", "ok", "<|im_end|>"])
def test_what_must_follow_is_spelled_exactly(text: str) -> None:
    """A prompt would be normalised, and control tokens found in it; a grammar means its characters."""
    state, spelled = compiler().start(GrammarSpec("choice", json.dumps([text]))), b""
    while not state.finished:
        token_id = min(allowed(state))
        assert token_id not in TOKENIZER.added_tokens.values()
        state.accept(token_id)
        spelled += TOKENIZER.token_bytes(token_id)
    assert spelled.decode() == text


def test_a_resumed_sequence_goes_on_where_it_was() -> None:
    spec = GrammarSpec("json_schema", SCHEMA)
    ids = TOKENIZER.encode('{"name": "Bob", "n": 1')
    fresh = walk(compiler().start(spec), '{"name": "Bob", "n": 1')
    request = EngineRequest("a", (9, 9), SamplingParams(), grammar=spec, resumed_token_ids=tuple(ids))
    resumed = Sequence(request, [9, 9, *ids], num_prompt=2, slot=0)
    assert torch.equal(RowGrammars(compiler()).mask(resumed), fresh.mask())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}'),
        ("json_schema", '{"not": {}}'),
        ("json_schema", "5"),
        ("json_schema", "{"),
        ("lark", "start: start"),
        ("lark", "nonsense"),
        ("regex", "("),
    ],
)
def test_grammars_that_allow_nothing_cost_the_request_only(kind: str, text: str) -> None:
    with pytest.raises(RequestError):
        compiler().start(GrammarSpec(kind, text)).mask()  # type: ignore[arg-type]
    assert compiler().start(GrammarSpec("json_object", "")).mask().numel() * 32 >= TOKENIZER.vocab_size
