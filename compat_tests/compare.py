"""Compare two replies to the same request: status, key sets, errors, stream order, and greedy content."""

from __future__ import annotations

import math
from typing import Any

from compat_tests.differences import ONLY_OURS, ONLY_PEER, PARAMS, UNCOMPARED, seen
from compat_tests.http import Reply

LOGPROB_TOLERANCE = 2e-3
"""Both run float32, but sum in different orders."""


def key_paths(value: Any, prefix: str = "") -> set[str]:
    """All key paths of a JSON value. Maps whose keys are data (top_logprobs of completions) are left whole."""
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{prefix}[]") for item in value)) if value else set()
    if not isinstance(value, dict) or prefix.endswith(("top_logprobs[]", "prompt_logprobs[]")):
        return set()
    paths: set[str] = set()
    for key, item in value.items():
        path = f"{prefix}.{key}" if prefix else key
        paths |= {path} | key_paths(item, path)
    return paths


def _unknown(paths: set[str], known: dict[str, str], side: str) -> list[str]:
    """Paths that no known difference covers; those that one does are noted as seen."""
    unknown = []
    for path in sorted(path.removeprefix("[].") for path in paths):  # [] are the events of a stream
        entry = next((e for e in known if path == e or path.startswith((f"{e}.", f"{e}[]"))), None)
        if entry is None:
            unknown.append(path)
        else:
            seen[f"{side} {entry}"] = known[entry]
    return unknown


def assert_same_keys(ours: Any, peer: Any) -> None:
    mine, theirs = key_paths(ours), key_paths(peer)
    missing = _unknown(theirs - mine, ONLY_PEER, "only the peer sends")
    extra = _unknown(mine - theirs, ONLY_OURS, "only this server sends")
    assert not missing, f"vLLM sends keys that we do not: {missing}"
    assert not extra, f"we send keys that vLLM does not: {extra}"


def assert_same_error(ours: Reply, peer: Reply) -> None:
    """OpenAI's envelope on our side; where vLLM names a parameter, so do we."""
    assert isinstance(ours.body, dict), ours.raw[:300]
    error = ours.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    theirs = peer.body.get("error") if isinstance(peer.body, dict) else None
    if isinstance(theirs, dict) and theirs.get("param"):
        named = str(theirs["param"]).removeprefix("body.").split(".")[0]
        assert error["param"] is not None, f"vLLM names {named}: {error}"
        assert str(error["param"]).split("[")[0].split(".")[0] in {named, "prompt", "messages"} | PARAMS.get(
            named, set()
        ), (error, theirs)


def merge_stream(events: tuple[Any, ...]) -> dict[str, Any]:
    """A stream as one whole: per choice the text, tokens, tool calls and reason, then usage and the event order."""
    choices: dict[int, dict[str, Any]] = {}
    merged: dict[str, Any] = {"choices": choices, "usage": None, "done": events[-1:] == ("[DONE]",), "order": []}
    for event in events:
        if event == "[DONE]":
            continue
        if event.get("usage") and not event["choices"]:
            merged["usage"] = event["usage"]
            merged["order"].append("usage")
        for choice in event["choices"]:
            _merge_choice(choices, merged["order"], choice)
    return merged


def _merge_choice(choices: dict[int, dict[str, Any]], order: list[str], choice: dict[str, Any]) -> None:
    whole = choices.setdefault(
        choice["index"],
        {"text": "", "reasoning": "", "role": None, "finish_reason": None, "tools": {}, "logprobs": []},
    )
    delta = choice.get("delta")
    if delta is None:
        whole["text"] += choice["text"]
    else:
        whole["role"] = whole["role"] or delta.get("role")
        whole["text"] += delta.get("content") or ""
        whole["reasoning"] += delta.get("reasoning") or ""
        for call in delta.get("tool_calls") or []:
            entry = whole["tools"].setdefault(call["index"], {"name": "", "arguments": ""})
            entry["name"] += call["function"].get("name") or ""
            entry["arguments"] += call["function"].get("arguments") or ""
    if choice.get("logprobs"):
        whole["logprobs"] += choice["logprobs"].get("content") or choice["logprobs"].get("token_logprobs") or []
    kind = "role" if delta and delta.get("role") else "finish" if choice.get("finish_reason") else "delta"
    if choice.get("finish_reason"):
        whole["finish_reason"] = choice["finish_reason"]
    if not (order and order[-1] == f"{kind}{choice['index']}" == f"delta{choice['index']}"):
        order.append(f"{kind}{choice['index']}")


def event_order(merged: dict[str, Any]) -> list[str]:
    """The order of events per choice without plain deltas, which both sides merge as they like."""
    return sorted((kind for kind in merged["order"] if not kind.startswith("delta")), key=lambda k: k[-1].isalpha())


def assert_close(ours: Any, peer: Any, path: str = "") -> None:
    """Equal JSON, floats within LOGPROB_TOLERANCE; keys that only one side has were judged before."""
    if isinstance(ours, dict) and isinstance(peer, dict):
        for key in ours.keys() & peer.keys():
            if key in UNCOMPARED and ours[key] is None:
                continue
            assert_close(ours[key], peer[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(peer, list):
        assert len(ours) == len(peer), f"{path}: {len(ours)} against {len(peer)}"
        for index, pair in enumerate(zip(ours, peer, strict=True)):
            assert_close(*pair, f"{path}[{index}]")
    elif isinstance(ours, float) or isinstance(peer, float):
        assert math.isclose(ours, peer, abs_tol=LOGPROB_TOLERANCE), f"{path}: {ours} against {peer}"
    else:
        assert ours == peer, f"{path}: {ours!r} against {peer!r}"
