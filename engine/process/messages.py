"""What crosses between a front (HTTP process) and the engine's process: msgpack over ZeroMQ, never pickle.

The engine binds a ROUTER socket `<run_dir>/engine.sock` (folder mode 0700); each front connects a DEALER. One
`StepOutputs` message a step and front carries all rows of that front.
"""

from __future__ import annotations

import msgspec

from engine.request import EngineRequest, EngineStats, RequestOutput


class EngineInfo(msgspec.Struct, frozen=True):
    """What a loaded engine tells about itself."""

    architecture: str
    vocab_size: int
    """Rows of the embedding; may be larger than the tokenizer."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    kv_cache_bytes: int
    weights_bytes: int
    device: str
    """For people: "cpu (2 threads, avx512_bf16)", "NVIDIA H200"."""
    dtype: str
    attention_backend: str
    attention_reason: str
    policy: str
    load_s: float
    pid: int


# ---- front -> engine


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message of a front; answered by Welcome once the model is loaded, by Progress until then."""


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    requests: tuple[EngineRequest, ...]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Requests whose client has gone. Unknown ids are ignored; no output follows."""

    request_ids: tuple[str, ...]


class ResetPrefixCache(msgspec.Struct, frozen=True, tag="reset_prefix_cache"):
    pass


FrontMessage = Hello | Submit | Cancel | ResetPrefixCache

# ---- engine -> front


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """While loading."""

    phase: str
    fraction: float
    """0..1 of this phase."""
    detail: str = ""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    epoch: int
    """Grows with every engine process; a front that sees a new one resubmits its live requests."""
    info: EngineInfo


class StepOutputs(msgspec.Struct, frozen=True, tag="step"):
    epoch: int
    outputs: tuple[RequestOutput, ...]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """From the engine's own loop, so that a hung step shows as silence. At least every 0.5 s between steps."""

    epoch: int
    stats: EngineStats


EngineMessage = Progress | Welcome | StepOutputs | Heartbeat
