"""Which numbers make sense as settings. What is out of range is an error before anything is started."""

from __future__ import annotations

import math

from engine.errors import ConfigurationError

MAY_BE_ZERO = frozenset(
    {
        *("port", "seed", "shutdown_timeout", "sse_keep_alive_interval", "request_timeout", "write_timeout"),
        *("max_concurrent_requests_per_key", "max_queue_wait", "max_logprobs", "max_tools"),
        *("max_stop", "max_stop_token_ids", "max_bad_words", "max_logit_bias", "max_allowed_token_ids"),
    }
)
"""There 0 says: any, none, or at once. All other numbers are above it."""
HIGHEST = {"port": 65_535, "gpu_memory_utilization": 1.0, "max_grammar_kib": 256}


def flag_of(name: str) -> str:
    """`--max-model-len` for `max_model_len`."""
    return "--" + name.replace("_", "-")


def check_number(name: str, value: float) -> None:
    """Raises ConfigurationError that names the flag."""
    flag = flag_of(name)
    if not math.isfinite(value):
        raise ConfigurationError(f"{flag} must be a finite number, got {value}")
    if name in MAY_BE_ZERO and value < 0:
        raise ConfigurationError(f"{flag} must not be negative, got {value}")
    if name not in MAY_BE_ZERO and value <= 0:
        least = "be at least 1" if isinstance(value, int) else "be above 0"
        raise ConfigurationError(f"{flag} must {least}, got {value}")
    if name in HIGHEST and value > HIGHEST[name]:
        raise ConfigurationError(f"{flag} must be at most {HIGHEST[name]}, got {value}")
