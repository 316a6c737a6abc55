"""Every request goes to both servers; `--peer-url` names the other one, with the same float32 checkpoint."""

from __future__ import annotations

import pytest

from compat_tests import cases
from compat_tests.cases import Case
from compat_tests.compare import assert_close, assert_same_error, assert_same_keys, event_order, merge_stream
from compat_tests.differences import STATUS, seen
from compat_tests.http import Endpoint, Reply


def _named(cases_: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases_, ids=[case.id for case in cases_])


@_named(cases.WHOLE)
def test_whole_replies(case: Case, ours: Endpoint, peer: Endpoint, model: str) -> None:
    body = {"model": model, **case.body}
    mine, theirs = ours.post(case.path, body), peer.post(case.path, body)
    assert (mine.status, theirs.status) == (200, 200), (mine.body, theirs.body)
    assert_same_keys(mine.body, theirs.body)
    assert_close(mine.body["choices"], theirs.body["choices"])
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert mine.body["usage"][count] == theirs.body["usage"][count], count


@_named(cases.STREAMS)
def test_streams(case: Case, ours: Endpoint, peer: Endpoint, model: str) -> None:
    body = {"model": model, **case.body}
    mine, theirs = ours.post(case.path, body), peer.post(case.path, body)
    assert (mine.status, theirs.status) == (200, 200)
    assert_same_keys(list(mine.events[:-1]), list(theirs.events[:-1]))
    merged, expected = merge_stream(mine.events), merge_stream(theirs.events)
    assert merged["done"]
    assert_close(merged["choices"], expected["choices"])
    assert event_order(merged) == event_order(expected)
    if expected["usage"]:
        assert merged["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]


@_named(cases.TOOLS)
def test_tools(case: Case, ours: Endpoint, peer: Endpoint, model: str) -> None:
    """Needs a peer started with --enable-auto-tool-choice --tool-call-parser hermes."""
    body = {"model": model, **case.body}
    mine, theirs = ours.post(case.path, body), peer.post(case.path, body)
    assert (mine.status, theirs.status) == (200, 200), (mine.body, theirs.body)
    if mine.events:
        assert_close(merge_stream(mine.events)["choices"], merge_stream(theirs.events)["choices"])
        return
    left, right = mine.body["choices"][0], theirs.body["choices"][0]
    assert left["finish_reason"] == right["finish_reason"]
    assert left["message"]["content"] == right["message"]["content"]
    calls = [[call["function"] for call in side["message"].get("tool_calls") or []] for side in (left, right)]
    assert calls[0] == calls[1]


@_named(cases.ERRORS)
def test_errors(case: Case, ours: Endpoint, peer: Endpoint, model: str) -> None:
    body = {"model": model, **case.body}
    mine, theirs = ours.post(case.path, body), peer.post(case.path, body)
    _assert_statuses(case.id, mine, theirs)
    if mine.status >= 400:
        assert_same_error(mine, theirs)


def _assert_statuses(case_id: str, mine: Reply, theirs: Reply) -> None:
    """Equal, or as `differences.STATUS` says."""
    if case_id in STATUS:
        *expected, seen[f"status of {case_id}"] = STATUS[case_id]
        assert [mine.status, theirs.status] == expected, (mine.body, theirs.body)
    else:
        assert mine.status == theirs.status, (mine.body, theirs.body)


def test_models(ours: Endpoint, peer: Endpoint, model: str) -> None:
    _assert_statuses("retrieve_model", *(side.get(f"/v1/models/{model}") for side in (ours, peer)))
    mine, theirs = (side.get("/v1/models") for side in (ours, peer))
    _assert_statuses("models", mine, theirs)
    assert_same_keys(mine.body, theirs.body)


def test_another_media_type(ours: Endpoint, peer: Endpoint) -> None:
    mine, theirs = (side.post_raw(cases.CHAT, b"a=1", "text/plain") for side in (ours, peer))
    _assert_statuses("unsupported_media_type", mine, theirs)
    assert_same_error(mine, theirs)


def test_same_tokens_for_the_same_text(ours: Endpoint, peer: Endpoint, model: str) -> None:
    for body in ({"prompt": "Hello 世界 <|im_end|>"}, {"messages": cases.HELLO}):
        mine, theirs = (side.post("/tokenize", {"model": model, **body}).body for side in (ours, peer))
        if "messages" in body:
            assert mine["tokens"] == theirs["tokens"]
        assert mine["max_model_len"] == theirs["max_model_len"]
        tokens = mine["tokens"]
        replies = [side.post("/detokenize", {"model": model, "tokens": tokens}).body for side in (ours, peer)]
        assert replies[0]["prompt"] == replies[1]["prompt"]
