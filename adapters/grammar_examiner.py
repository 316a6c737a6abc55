"""The process in which a grammar is compiled for trial: `python -m adapters.grammar_examiner`.

The grammar library cannot be interrupted, and there are small inputs that take it hours, all memory, or more stack
than a thread has. Here they cost a process that holds nothing. It reads one `Trial` a line from standard input and
writes one `Verdict` a line to standard output; it ends with its input.
"""

from __future__ import annotations

import functools
import os
import queue
import resource
import sys
import threading
import time
from typing import Any

import llguidance
import msgspec
from llguidance.gbnf_to_lark import any_to_lark

from adapters.grammar_tokens import with_stand_in
from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.grammar_source import LIMITS, grammar_source, is_panic

NAMED_TOKENS = (b"<tool_call>", b"</tool_call>", b"<think>", b"</think>")
MAX_COMPILE_S = 2.0
"""Of one processor. The engine compiles it again, between two steps."""
LOOK_AHEAD_BYTES = 3
"""Into an object's first key: where the alternatives are many, if anywhere."""
MAX_MEMORY_BYTES = 1 << 30
MAX_KEPT_KIB = 192 << 10
"""A process that has become larger ends after its verdict."""
STACK_BYTES = 2 << 20
"""A quarter of what the engine's thread has: what is compiled here has room to spare there."""
NICENESS = 5
"""Tokens go before trials."""


class Trial(msgspec.Struct, frozen=True):
    kind: str
    """As in GrammarSpec; or `grammar`: Lark or llama.cpp's GBNF."""
    text: str


class Verdict(msgspec.Struct, frozen=True):
    reason: str = ""
    """Why the grammar cannot be used; empty when it can."""
    lark: str = ""
    """Of a `grammar`: the same as Lark."""


def examine(trial: Trial) -> Verdict:
    """Compiled over an alphabet of single bytes, with its first mask."""
    try:
        lark = any_to_lark(trial.text) if trial.kind == "grammar" else ""
        spec = GrammarSpec("lark", lark) if lark else GrammarSpec(trial.kind, trial.text)  # type: ignore[arg-type]
        began_s = time.thread_time()
        reason = _failure(spec)
        if not reason and time.thread_time() - began_s > MAX_COMPILE_S:
            reason = f"it takes longer than {MAX_COMPILE_S:g} s to compile"
        return Verdict(reason, lark)
    except RequestError as error:
        return Verdict(str(error))
    except BaseException as error:  # noqa: BLE001
        # Rust's panics are no Exception, and the converter raises whatever its parser stumbles over.
        return Verdict("the grammar library failed on it" if is_panic(error) else str(error) or repr(error))


def _failure(spec: GrammarSpec) -> str:
    if spec.kind == "lark":  # a client's, which may name tokens of its model
        spec = msgspec.structs.replace(spec, text=with_stand_in(spec.text))
    matcher = llguidance.LLMatcher(_byte_alphabet(), grammar_source(spec), log_level=0, limits=LIMITS)
    if matcher.is_error():
        return str(matcher.get_error())
    mask = matcher.compute_bitmask()
    if matcher.is_stopped() and not matcher.is_accepting():
        return "it allows no reply at all"
    for _ in range(LOOK_AHEAD_BYTES):
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed:
            break
        matcher.consume_token(ord('"') if ord('"') in allowed else allowed[-1])
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            return _if_too_large(matcher.get_error())
        if matcher.is_stopped():
            break
    return ""


def _if_too_large(error: str) -> str:
    """An error ahead, if it is about sizes. That some way leads nowhere does not condemn the others."""
    return error if "Too many" in error or " items; max is " in error else ""


class _Bytes:
    """An alphabet of single bytes, and the control tokens that our own rules name."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = tuple(range(256, 257 + len(NAMED_TOKENS)))
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>", *NAMED_TOKENS)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def _byte_alphabet() -> Any:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


def main() -> None:
    """Trials one after the other, in a thread; the main thread notices the end of the input at any time."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def work() -> None:
        while True:
            _say(examine(msgspec.json.decode(lines.get(), type=Trial)))
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MAX_KEPT_KIB:
                os._exit(0)

    threading.stack_size(STACK_BYTES)
    threading.Thread(target=work, daemon=True).start()
    _say(examine(Trial("json_object", "")))  # ready, and everything is loaded
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _say(verdict: Verdict) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
