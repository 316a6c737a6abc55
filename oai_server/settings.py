"""Every setting of the server in one frozen Struct. The text under a field is its help.

Each class is one group of `--help`; the chain of classes makes them one flat namespace. A field `max_model_len` is
the flag `--max-model-len`, the variable `OAI_SERVER_MAX_MODEL_LEN` and the key `max_model_len` of a TOML file
(`oai_server.settings_sources` reads them; flag before variable before file). Names are vLLM's where it has one.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

from engine.config import EngineConfig, LoadFormat, PolicyName

AttentionName = Literal["auto", "native", "cpu", "fa3", "triton", "flash-attn", "reference"]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Model"""

    model: str = ""
    """Folder of a checkpoint or its Hugging Face id; empty: the bundled demo model."""
    served_model_name: tuple[str, ...] = ()
    """Names that requests may ask for; replies carry the first. Default: the model's own name."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    download_dir: str | None = None
    """Where downloads go; default: Hugging Face's cache."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and activations; auto: the checkpoint's own."""
    load_format: LoadFormat = "auto"
    """dummy: random weights, no weight file is read; for benchmarks."""
    max_model_len: int | None = None
    """Longest sequence, prompt and output together, in tokens; default: the model's own (accepts 32k)."""
    chat_template: str | None = None
    """File with a Jinja chat template that replaces the model's own."""
    default_chat_template_kwargs: dict[str, bool | int | float | str] = {}
    """Arguments of the chat template for requests that give none, as JSON: '{"enable_thinking": false}'."""
    tool_call_parser: str = "auto"
    """How the model writes tool calls: auto (from its template), hermes, qwen3_coder or none."""
    reasoning_parser: str = "auto"
    """How the model marks its thinking: auto (from its template), qwen3, deepseek_r1 or none."""
    generation_config: str = "auto"
    """auto: sampling defaults of the model's generation_config.json; vllm: neutral ones; or a folder."""
    max_logprobs: int = 20
    """Most logprobs a position that a request may ask for."""


class EngineSettings(ModelSettings, frozen=True, kw_only=True):
    """Engine"""

    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes CUDA when there is one."""
    attention_backend: AttentionName = "auto"
    """Attention kernels; auto: the fastest that works here."""
    policy: PolicyName = "sjf"
    """Scheduling: shortest job first, the same in aligned batches, or first come first served."""
    max_num_seqs: int = 256
    """Sequences running at once."""
    max_num_batched_tokens: int | None = None
    """Tokens a step, decode rows and prefill chunks together; default: 8192 on CUDA, 512 on CPU."""
    block_size: int | None = None
    """Tokens a KV block; default: what the attention backend likes best."""
    num_gpu_blocks_override: int | None = None
    """KV blocks; default: from the memory settings."""
    kv_cache_memory_gib: float | None = None
    """CPU: memory for KV blocks in GiB; default: a quarter of what is free."""
    gpu_memory_utilization: float = 0.90
    """CUDA: share of the device's memory for weights, activations and KV blocks together."""
    kv_cache_dtype: Literal["auto"] = "auto"
    """Type of the KV cache; auto: as the activations."""
    enable_prefix_caching: bool = True
    """Share KV blocks between requests that begin alike."""
    enforce_eager: bool = False
    """CUDA: no CUDA graphs."""
    long_context_extrapolation: bool = False
    """Qwen 1 only: dynamic NTK and logn attention beyond seq_length; turns prefix caching off."""
    seed: int = 0
    """Seed of the engine (random weights of load format dummy)."""
    num_threads: int | None = None
    """CPU threads of the engine's process; default: all physical cores that the container may use."""


class ServerSettings(EngineSettings, frozen=True, kw_only=True):
    """Server"""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to the network, so set --api-key too."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    api_key: tuple[str, ...] = ()
    """Keys of which a client must send one, as `Authorization: Bearer` or `x-api-key`; none: everyone may come in."""
    api_workers: int = 1
    """HTTP processes that share the one engine."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the server (CORS); "*" for any."""
    allowed_hosts: tuple[str, ...] = ()
    """Further Host names to answer to on a loopback address; "*" for any."""
    ssl_keyfile: str | None = None
    """Private key file; with --ssl-certfile the server speaks HTTPS."""
    ssl_certfile: str | None = None
    """Certificate file."""
    shutdown_timeout: float = 30.0
    """Seconds that running requests get to finish after SIGTERM before they end with an error event."""
    sse_keep_alive_interval: float = 15.0
    """Seconds between comment lines on a silent stream; 0: none."""
    enable_force_include_usage: bool = False
    """Send usage with every stream, whether asked for or not."""
    return_tokens_as_token_ids: bool = False
    """Show tokens in logprobs as `token_id:301`."""
    reasoning_field: Literal["both", "reasoning", "reasoning_content"] = "both"
    """Under which name thinking is sent; clients differ, so both by default."""
    access_log: bool = True
    """One log line a request: no prompt, no key."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged."""


class LimitSettings(ServerSettings, frozen=True, kw_only=True):
    """Limits"""

    max_body_mib: float = 64.0
    """Largest request body in MiB (413)."""
    max_num_queued_reqs: int = 1024
    """Sequences that may wait for the engine; beyond that 429 before any work is done. All --api-workers together."""
    max_queue_wait: float = 300.0
    """Seconds a request may wait for its first step, or for an engine that restarts."""
    request_timeout: float = 3600.0
    """Seconds after which a request is cancelled and ends with an error; 0: never."""
    max_concurrent_requests_per_key: int = 0
    """Requests that one API key may have running (429); 0: no limit. All --api-workers count together."""
    max_n: int = 128
    """Choices a request may ask for."""
    max_prompts: int = 1024
    """Prompts in one completion request."""
    max_sequences_per_request: int = 1024
    """n times the number of prompts."""
    max_tokens_per_request: int = 2**24
    """Output tokens that one request may ask for, of all choices and prompts; each logprob counts as one more."""
    max_messages: int = 16_384
    """Messages of a conversation."""
    max_tools: int = 512
    """Tools a request may define."""
    max_stop: int = 4
    """Stop strings."""
    max_stop_chars: int = 4096
    """Characters of one stop string or bad word."""
    max_stop_token_ids: int = 128
    """Stop token ids."""
    max_bad_words: int = 128
    """Bad words."""
    max_logit_bias: int = 300
    """Entries of logit_bias."""
    max_allowed_token_ids: int = 4096
    """Entries of allowed_token_ids."""
    max_json_depth: int = 64
    """Nesting of a schema, a tool's too, or of chat_template_kwargs."""
    max_grammar_kib: int = 256
    """Size of a schema, regex or grammar that a reply must obey; at most 256."""
    template_timeout: float = 2.0
    """Seconds that rendering a chat template may take."""
    grammar_timeout: float = 5.0
    """Seconds that compiling a grammar may take."""
    max_connections: int = 8192
    """Open connections a worker; beyond that 503 and close. Lowered to what the file-descriptor limit allows."""
    max_header_kib: int = 32
    """Request line and headers together (431)."""
    max_headers: int = 128
    """Number of headers (431)."""
    header_timeout: float = 10.0
    """Seconds within which the headers of a request must have come."""
    body_timeout: float = 60.0
    """Seconds within which the body must have come (408)."""
    keep_alive_timeout: float = 75.0
    """Seconds that an idle connection is kept."""
    write_timeout: float = 30.0
    """Seconds after which a client that reads nothing is cut off (TCP_USER_TIMEOUT)."""
    send_buffer_kib: int = 128
    """Kernel send buffer a connection; bounds what a slow reader can pin."""


class Settings(LimitSettings, frozen=True, kw_only=True):
    """All settings of one server. See `oai_server.settings_sources.load_settings`."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def engine_config(self, model_path: str | None = None) -> EngineConfig:
        """The engine's share. `model_path`: the local folder, when `model` is a hub id or empty."""
        return EngineConfig(
            model_path=model_path or self.model,
            device=self.device,
            dtype=self.dtype,
            load_format=self.load_format,
            max_model_len=self.max_model_len,
            block_size=self.block_size,
            num_blocks=self.num_gpu_blocks_override,
            kv_cache_memory_gib=self.kv_cache_memory_gib,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            policy=self.policy,
            enable_prefix_caching=self.enable_prefix_caching,
            attention_backend=self.attention_backend,
            enforce_eager=self.enforce_eager,
            kv_cache_dtype=self.kv_cache_dtype,
            seed=self.seed,
            num_threads=self.num_threads,
            long_context_extrapolation=self.long_context_extrapolation,
        )
