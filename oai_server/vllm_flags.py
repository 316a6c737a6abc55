"""What command lines written for `vllm serve` hold besides flags of ours: spellings, flags without a task here, and
flags for what is not served, which must not be passed over in silence."""

from __future__ import annotations

import logging
from collections.abc import Collection

from engine.errors import ConfigurationError

logger = logging.getLogger("oai_server")

FLAG_ALIASES: dict[str, str] = {
    "--api-server-count": "--api-workers",
    "-asc": "--api-workers",
    "--uvicorn-log-level": "--log-level",
    "--scheduling-policy": "--policy",
    "--disable-uvicorn-access-log": "--no-access-log",
    "--disable-prefix-caching": "--no-enable-prefix-caching",
}
"""Other spellings of our flags."""

SHORT: dict[str, str] = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
    "-cc": "--compilation-config",
}

GONE_SWITCHES: dict[str, str] = {
    "--disable-log-requests": "requests are never logged with their text",
    "--enable-log-requests": "requests are never logged with their text",
    "--enable-reasoning": "the reasoning parser is chosen from the model",
    "--use-v2-block-manager": "there is one block manager",
    "--enable-auto-tool-choice": "tool calls are always parsed",
    "--enable-chunked-prefill": "prefill is always chunked",
    "--no-enable-chunked-prefill": "prefill is always chunked",
    "--enable-prompt-tokens-details": "usage always has them",
    "--enable-request-id-headers": "x-request-id is always sent",
    "--enable-server-load-tracking": "/load always counts",
    "--disable-log-stats": "statistics are at /metrics",
    "--trust-remote-code": "code from a model folder is never run",
    "--async-scheduling": "the engine decides itself",
    "-O0": "the engine decides itself",
    "-O1": "the engine decides itself",
    "-O2": "the engine decides itself",
    "-O3": "the engine decides itself",
}
GONE_OPTIONS: dict[str, str] = {
    "--swap-space": "preempted requests are recomputed",
    "--guided-decoding-backend": "there is one grammar backend",
    "--structured-outputs-config": "there is one grammar backend",
    "--compilation-config": "the engine decides itself",
    "--cpu-offload-gb": "weights are not offloaded",
    "--chat-template-content-format": "message content is made fit for the template",
    "--speculative-config": "there is no speculative decoding",
    "--stream-interval": "tokens are sent as they come",
    "--limit-mm-per-prompt": "models read text only",
    "--distributed-executor-backend": "one device is used",
    "--max-log-len": "requests are never logged with their text",
}
"""Flags that may be passed over: accepted, with a warning that says why they do nothing. Options have a value."""

NOT_SERVED: dict[str, tuple[Collection[str], str]] = {
    "--tensor-parallel-size": ("1", "a model runs on one GPU"),
    "--pipeline-parallel-size": ("1", "a model runs on one GPU"),
    "--data-parallel-size": ("1", "start one server for each GPU (--device cuda:N)"),
    "--quantization": (("none", "None"), "quantized checkpoints are not served yet"),
    "--tokenizer": ((), "the tokenizer is the one in the model's folder"),
    "--enable-lora": ((), "adapters are not served: merge them into the checkpoint"),
    "--lora-modules": ((), "adapters are not served: merge them into the checkpoint"),
    "--task": (("auto", "generate"), "this server generates text"),
    "--runner": (("auto", "generate"), "this server generates text"),
    "--hf-token": ((), "set the variable HF_TOKEN"),
    "--hf-overrides": ((), "change the checkpoint's config.json"),
    "--rope-scaling": ((), "change the checkpoint's config.json"),
    "--override-generation-config": ((), "--generation-config takes a folder with a generation_config.json"),
    "--logprobs-mode": (("raw_logprobs",), "logprobs are those of the model before temperature and penalties"),
    "--uds": ((), "the server listens on --host and --port"),
}
"""Flags that would change what is served: values that ask for nothing, and what an error says about the others."""


def vllm_habits(arguments: list[str], many: Collection[str]) -> list[str]:
    """`arguments` with vLLM's spellings made ours: aliases, `--max_model_len`, lists (`--api-key A B`), flags that
    are gone. `many`: our flags that may be repeated. Raises ConfigurationError for what is not served."""
    result: list[str] = []
    position = 0
    while position < len(arguments):
        flag, separator, value = arguments[position].partition("=")
        position += 1
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        flag = SHORT.get(flag, FLAG_ALIASES.get(flag, flag))
        following = []
        while position < len(arguments) and not arguments[position].startswith("-"):
            following.append(arguments[position])
            position += 1
        if flag in GONE_SWITCHES:
            logger.warning("%s has no effect here: %s", flag, GONE_SWITCHES[flag])
            result += following
        elif flag in GONE_OPTIONS:
            logger.warning("%s has no effect here: %s", flag, GONE_OPTIONS[flag])
            result += following if separator else following[1:]
        elif flag in NOT_SERVED:
            _check_served(flag, value if separator else " ".join(following[:1]))
            result += following if separator else following[1:]
        elif flag in many and len(following) > 1 and not separator:
            result += [item for entry in following for item in (flag, entry)]
        else:
            result += [flag + separator + value, *following]
    return result


def _check_served(flag: str, value: str) -> None:
    harmless, reason = NOT_SERVED[flag]
    if value not in harmless:
        raise ConfigurationError(f"{flag} {value}".rstrip() + f" is not supported: {reason}")
