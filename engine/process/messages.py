"""What crosses between a front (HTTP process) and the engine's process: msgpack over ZeroMQ, never pickle.

The engine binds a ROUTER socket `<run_dir>/engine.sock` (folder mode 0700); each front connects a DEALER. One
`StepOutputs` message a step and front carries all rows of that front.
"""

from __future__ import annotations

import msgspec

from engine.config import EngineConfig
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

    pid: int
    """The engine watches this process: when it ends, its requests are cancelled."""


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    requests: tuple[EngineRequest, ...]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Requests that the front has ended. Unknown ids are ignored; no output follows."""

    request_ids: tuple[str, ...]
    lengths: tuple[int, ...] = ()
    """None of them: the clients have gone. Else one a request: a stop string ended it after so many tokens."""


class ResetPrefixCache(msgspec.Struct, frozen=True, tag="reset_prefix_cache"):
    pass


FrontMessage = Hello | Submit | Cancel | ResetPrefixCache

# ---- engine -> front


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """While loading."""

    epoch: int
    phase: str
    fraction: float
    """0..1 of this phase."""
    detail: str = ""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    epoch: int
    """Grows with every engine process."""
    info: EngineInfo
    known: bool = False
    """False: this engine holds nothing of this front, which now submits all its live requests (again)."""


class StepOutputs(msgspec.Struct, frozen=True, tag="step"):
    epoch: int
    outputs: tuple[RequestOutput, ...]
    started: tuple[str, ...] = ()
    """Requests that were in a forward pass for the first time in this step: they wait no longer."""


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """From the engine's own loop, so that a hung step shows as silence. At least every 0.5 s between steps."""

    epoch: int
    stats: EngineStats


EngineMessage = Progress | Welcome | StepOutputs | Heartbeat

# ---- supervisor -> engine, on its standard input; end of file there means: stop


class Launch(msgspec.Struct, frozen=True):
    """One line of JSON. What follows on the same pipe is only its end."""

    config: EngineConfig
    run_dir: str
    epoch: int
    parent_pid: int


# ---- engine -> supervisor, on its standard output


class LastWords(msgspec.Struct, frozen=True):
    """One line of JSON before the engine exits with an error."""

    message: str
    permanent: bool
    """True: starting again would fail in the same way (a bad checkpoint, an impossible setting)."""


def socket_path(run_dir: str) -> str:
    return f"{run_dir}/engine.sock"


def started_path(run_dir: str, epoch: int) -> str:
    """Ids of the requests that have been in a forward pass of this epoch, one a line; it outlives the process."""
    return f"{run_dir}/started-{epoch}"


TURN_FILE = "turn"
TRIAL_PREFIX = "trial-"
"""Files of fronts in the run directory, see `adapters.trial_turns`; they have no content."""
