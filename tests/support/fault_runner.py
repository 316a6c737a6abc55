"""A runner without a model for tests with real processes. Its tokens are computable, and prompts can break it.

Token ids below 256 are bytes. A prompt that holds `KILL@3` kills the process when its third output token is due
(`@0`: in its prefill); HANG stops it, RAISE fails the step, OOM for lack of memory, LOST like a broken device; NAN
fails the row; from BYTES on its bytes are often no UTF-8, and WILD gives one token id that does not exist.
The folder's `script.json` sets speeds and failing loads.
"""

from __future__ import annotations

import os
import re
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.process.messages import EngineInfo
from engine.request import EngineRequest, Sequence
from engine.runner.batch import PendingStep, SampledToken, StepBatch, StepResult

VOCAB_SIZE = 260
IM_START, IM_END, END_OF_TEXT = 256, 257, 258
FAULT = re.compile(r"(KILL|HANG|RAISE|OOM|LOST|NAN|BYTES|WILD)@(\d+)")


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class Script(msgspec.Struct):
    step_s: float = 0.0
    silence_s: float = 30.0
    """After which the engine counts as hanging."""
    load_s: float = 0.0
    fail_loads: tuple[int, ...] = ()
    """Numbers of the loads that fail, from 1."""
    permanent: bool = False
    max_model_len: int = 2048
    block_size: int = 16
    num_blocks: int = 4096
    max_num_seqs: int = 256


def next_token(seed: int | None, position: int, previous: int) -> int:
    """A lower-case letter."""
    return 97 + zlib.crc32(b"%d,%d,%d" % (seed or 0, position, previous)) % 26


def expected_text(prompt: str, seed: int, max_tokens: int) -> str:
    """What a completion without faults gives."""
    tokens = list(prompt.encode())
    for _ in range(max_tokens):
        tokens.append(next_token(seed, len(tokens), tokens[-1]))
    return bytes(tokens[-max_tokens:]).decode()


@dataclass(frozen=True, slots=True)
class FaultStep:
    outcome: StepResult

    def result(self) -> StepResult:
        return self.outcome


class FaultRunner:
    pipelined = False
    step_sizes = None

    def __init__(self, script: Script) -> None:
        self._script = script
        self.block_size = script.block_size
        self.num_blocks = script.num_blocks
        self.max_model_len = script.max_model_len

    def prepare(self, request: EngineRequest) -> None:
        """Nothing has to be prepared."""

    def settle(self) -> None:
        """Nor later."""

    def prepare_more(self) -> bool:
        return False

    def launch(self, batch: StepBatch) -> PendingStep:
        if self._script.step_s:
            time.sleep(self._script.step_s)
        failed: dict[str, str] = {}
        sampled: list[SampledToken | None] = []
        for row in batch.rows:
            self._break(row.sequence, row.start + row.count - row.sequence.num_prompt, failed)
            if not row.samples:
                sampled.append(None)
                continue
            sampled.append(SampledToken(self._next(row.sequence)))
        return FaultStep(StepResult(tuple(sampled), failed=failed))

    def _next(self, sequence: Sequence) -> int:
        tokens, seed = sequence.token_ids, sequence.request.sampling.seed
        fault, produced = _fault_of(sequence), len(tokens) - sequence.num_prompt
        if fault is not None and fault[1] == "BYTES" and produced >= int(fault[2]):
            return strange_byte(seed, len(tokens))
        if fault is not None and fault[1] == "WILD" and produced == int(fault[2]):
            return 2**31 - 1
        return next_token(seed, len(tokens), tokens[-1])

    def _break(self, sequence: Sequence, produced: int, failed: dict[str, str]) -> None:
        fault = _fault_of(sequence)
        if fault is None or produced < int(fault[2]):
            return
        match fault[1]:
            case "KILL":
                os.kill(os.getpid(), signal.SIGKILL)
            case "HANG":
                time.sleep(3600)
            case "RAISE":
                raise ValueError("a planted failure")
            case "OOM":
                raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "LOST":
                raise RuntimeError("CUDA error: device-side assert triggered")
            case "NAN":
                failed[sequence.request_id] = "The model gave no usable numbers for this request."

    def forget(self, slot: int) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def strange_byte(seed: int | None, position: int) -> int:
    """Beginnings and ends of characters in any order, and what is in no UTF-8."""
    choices = b"\xe5\xad\x97\xf0\x9f\x98\x80a\xff\xc0\xed\xa0"
    return choices[zlib.crc32(b"%d,%d" % (seed or 0, position)) % len(choices)]


def _fault_of(sequence: Sequence) -> re.Match[str] | None:
    return FAULT.search(bytes(i for i in sequence.request.prompt_token_ids if i < 256).decode(errors="replace"))


def build(config: EngineConfig, report: Callable[[str, float, str], None]) -> tuple[FaultRunner, EngineInfo]:
    folder = Path(config.model_path)
    script = msgspec.json.decode((folder / "script.json").read_bytes(), type=Script)
    with (folder / "loads").open("a") as loads:
        loads.write("x")
    for i in range(10):
        report("weights", i / 10, f"shard {i}")
        time.sleep(script.load_s / 10)
    number = len((folder / "loads").read_text())
    if number in script.fail_loads:
        if script.permanent:
            raise ConfigurationError("a planted setting that is impossible")
        raise MemoryError("a planted lack of memory")
    info = EngineInfo(
        architecture="fault",
        vocab_size=VOCAB_SIZE,
        max_model_len=script.max_model_len,
        max_num_seqs=script.max_num_seqs,
        max_num_batched_tokens=512,
        block_size=script.block_size,
        num_blocks=script.num_blocks,
        kv_cache_bytes=0,
        weights_bytes=0,
        device="none",
        dtype="none",
        attention_backend="none",
        attention_reason="",
        policy="",
        load_s=0.0,
        pid=0,
    )
    return FaultRunner(script), info
