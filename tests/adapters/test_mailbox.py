"""The mailbox of one request: merging, waking, stop strings, errors, usage. No process, no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.backend import ChoiceDelta
from adapters.backend_options import BackendLimits
from adapters.mailbox import Choice, EngineGeneration
from adapters.output_assembler import OutputPlan
from engine.errors import RequestFailedError
from engine.request import EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from engine.sampling_params import SamplingParams
from engine.text.tokenizer import Tokenizer, load_tokenizer
from tests.support.fault_checkpoint import write_fault_checkpoint

EOS = 257


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_fault_checkpoint(tmp_path_factory.mktemp("model")))


class Box:
    """A generation and what it has released."""

    def __init__(self, tokenizer: Tokenizer, n: int = 1, *, stream: bool = True, **plan: object) -> None:
        self.released: list[tuple[int, FinishReason]] = []
        requests = [EngineRequest(f"r.{i}", (104, 105), SamplingParams(max_tokens=99)) for i in range(n)]
        ends = frozenset({EOS})
        self.generation = EngineGeneration(
            "r",
            OutputPlan(tokenizer=tokenizer, end_token_ids=ends, eos_token_ids=ends, **plan),  # type: ignore[arg-type]
            requests,
            "hi",
            stream=stream,
            limits=BackendLimits(),
            release=self._release,
        )

    def _release(self, choices: Sequence[Choice], reason: FinishReason) -> None:
        self.released += [(self.generation.choices.index(choice), reason) for choice in choices]

    def push(
        self,
        text: str = "",
        reason: FinishReason | None = None,
        *,
        index: int = 0,
        stop_id: int | None = None,
        **extra: object,
    ) -> None:
        choice = self.generation.choices[index]
        ids = (*text.encode(), *((stop_id,) if stop_id is not None else ()))
        self.generation.push(choice, RequestOutput(choice.request_id, ids, reason, stop_id, **extra))  # type: ignore[arg-type]

    async def rest(self) -> list[tuple[ChoiceDelta, ...]]:
        return [deltas async for deltas in self.generation]


async def test_a_consumer_that_is_behind_takes_all_as_one_delta(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer)
    box.push("a")
    assert [delta.content for delta in await anext(box.generation)] == ["a"]
    for letter in "bcd":
        box.push(letter)
    assert [delta.content for delta in await anext(box.generation)] == ["bcd"]
    box.push("e")
    box.push("f", "length")
    (last,) = (await box.rest())[0]
    assert (last.content, last.finish_reason) == ("ef", "length")
    assert box.generation.usage.completion_tokens == 6
    assert box.released == []


async def test_a_waiting_consumer_is_woken_once_for_all_choices_of_a_step(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer, n=3)
    waiting = asyncio.ensure_future(anext(box.generation))
    await asyncio.sleep(0)
    for index in range(3):
        box.push("abc"[index], index=index)
    assert [(delta.index, delta.content) for delta in await waiting] == [(0, "a"), (1, "b"), (2, "c")]


async def test_half_a_character_wakes_nobody_for_nothing(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer)
    waiting = asyncio.ensure_future(anext(box.generation))
    for byte in "好".encode():
        await asyncio.sleep(0)
        assert not waiting.done()
        choice = box.generation.choices[0]
        box.generation.push(choice, RequestOutput(choice.request_id, (byte,)))
    assert (await waiting)[0].content == "好"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_string_ends_one_choice_and_frees_it_in_the_engine(tokenizer: Tokenizer, stream: bool) -> None:
    box = Box(tokenizer, n=2, stream=stream, stop=("STOP",))
    consumer = asyncio.ensure_future(box.rest())
    for letter in "abSTOPcd":
        await asyncio.sleep(0)
        if box.generation.choices[0].reason is None:
            box.push(letter)
        box.push("x", index=1)
    assert box.released == [(0, "stop")]
    box.push("", "length", index=1)
    deltas = [delta for batch in await consumer for delta in batch]
    texts = {i: "".join(delta.content for delta in deltas if delta.index == i) for i in (0, 1)}
    assert texts == {0: "ab", 1: "xxxxxxxx"}
    ends = {delta.index: (delta.finish_reason, delta.stop_reason) for delta in deltas if delta.finish_reason}
    assert ends == {0: ("stop", "STOP"), 1: ("length", None)}
    assert box.generation.usage.completion_tokens_by_choice == (6, 8)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_special_token_that_is_shown_can_be_a_stop_string(tokenizer: Tokenizer, stream: bool) -> None:
    (tag, token_id) = next(
        (tag, i) for tag, i in tokenizer.added_tokens.items() if i in tokenizer.special_ids - {EOS}
    )
    box = Box(tokenizer, stream=stream, stop=(tag,), keep_ids=frozenset({token_id}))
    (choice,) = box.generation.choices
    box.generation.push(choice, RequestOutput(choice.request_id, (97, token_id)))
    ((delta,),) = await box.rest()
    assert (delta.content, delta.stop_reason) == ("a", tag)
    assert box.released == [(0, "stop")]


async def test_without_a_stream_one_whole_delta_a_choice_comes_at_the_end(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer, n=2, stream=False)
    waiting = asyncio.ensure_future(box.rest())
    for letter in "abc":
        box.push(letter)
        box.push(letter.upper(), index=1)
        await asyncio.sleep(0)
        assert not waiting.done()
    box.push(stop_id=EOS, reason="stop")
    await asyncio.sleep(0)
    assert not waiting.done()
    box.push("D", "length", index=1)
    ((first, second),) = await waiting
    assert (first.content, first.finish_reason, first.stop_reason) == ("abc", "stop", None)
    assert (second.content, second.finish_reason) == ("ABCD", "length")
    assert first.token_ids == (*b"abc", EOS)


async def test_what_is_there_comes_before_the_error(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer, n=2)
    box.push("a")
    box.generation.fail(RequestFailedError("no"))
    box.generation.fail(RequestFailedError("later errors do not count"))
    assert [delta.content for delta in await anext(box.generation)] == ["a"]
    with pytest.raises(RequestFailedError, match=r"^no$"):
        await anext(box.generation)
    assert box.released == [(0, "error"), (1, "error")]


async def test_cancel_is_idempotent_and_a_finished_one_ignores_it(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer)
    box.push("a")
    box.generation.cancel()
    box.generation.cancel()
    assert box.released == [(0, "abort")]
    assert await box.rest() == []
    done = Box(tokenizer)
    done.push("a", "length")
    done.generation.cancel()
    assert done.released == []


async def test_a_resumed_request_carries_its_tokens_and_asks_no_prompt_logprobs_twice(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer)
    (choice,) = box.generation.choices
    sampling = SamplingParams(max_tokens=99, prompt_logprobs=0)
    choice.request = EngineRequest("r.0", (104, 105), sampling)
    assert choice.resumed().sampling.prompt_logprobs == 0
    box.push("ab", prompt_logprobs=(None, TokenLogprobs(-1.0, 1)), cached_tokens=1)
    again = choice.resumed()
    assert again.resumed_token_ids == (97, 98)
    assert again.sampling.prompt_logprobs is None
    entry = box.generation.prompt_logprobs[1]
    assert entry is not None
    assert (entry.chosen.token, entry.chosen.logprob, entry.text_offset) == ("i", -1.0, 1)


async def test_logprobs_travel_with_their_tokens(tokenizer: Tokenizer) -> None:
    box = Box(tokenizer, logprobs=True)
    for i, letter in enumerate("abc"):
        box.push(letter, "length" if letter == "c" else None, logprobs=(TokenLogprobs(-float(i), i + 1),))
    ((delta,),) = await box.rest()
    assert [(p.chosen.token, p.chosen.logprob) for p in delta.logprobs] == [("a", 0.0), ("b", -1.0), ("c", -2.0)]


async def test_timers_end_a_request_and_die_with_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    box = Box(tokenizer)
    box.generation.fail_after(0.01, lambda: None)
    box.generation.fail_after(0.02, lambda: RequestFailedError("late"))
    with pytest.raises(RequestFailedError, match="late"):
        await anext(box.generation)
    done = Box(tokenizer)
    done.generation.fail_after(0.01, lambda: RequestFailedError("late"))
    done.push("a", "length")
    await asyncio.sleep(0.03)
    assert len(await done.rest()) == 1
