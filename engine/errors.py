"""What the engine raises.

* EngineError
  + ConfigurationError      a setting is impossible or contradicts another
  + ModelLoadError          a checkpoint is missing, damaged or not supported; names the file
  + RequestError            one request is at fault; carries the parameter's name; others go on
    - ContextLengthError    prompt longer than the model's context
    - DeadlineExceededError the request's deadline passed
  + RequestFailedError      the engine gave one request up; others go on
  + EngineDeadError         the engine process is gone and the request could not be resumed
    - DeviceLostError       the accelerator's context is broken: the process must end
  + EngineOverloadedError   the queue is full; try again after `retry_after_s`
    - EngineUnavailableError  no engine just now (starting, restarting, dead)
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class ConfigurationError(EngineError):
    """A setting is impossible or contradicts another one."""


class ModelLoadError(EngineError):
    """A checkpoint is missing, damaged or not supported. The message names the file and what is supported."""


class RequestError(EngineError):
    """One request cannot be served as asked; `param` is the bare name of the field at fault, if any."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthError(RequestError):
    """The prompt alone is longer than the model's context."""

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message, param, "context_length_exceeded")


class EngineDeadError(EngineError):
    """The engine process died and the request could not be resumed."""


class EngineOverloadedError(EngineError):
    """The waiting queue is full, or a request waited in it too long."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineUnavailableError(EngineOverloadedError):
    """There is no engine to take the request just now: it starts, restarts or has been declared dead."""


class RequestFailedError(EngineError):
    """The engine gave one request up (unusable logits, an exception in its step, or it killed the engine)."""


class DeadlineExceededError(RequestError):
    """The request's own deadline passed before it was finished."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None, "deadline_exceeded")


class DeviceLostError(EngineDeadError):
    """The accelerator's context is broken (a device assert, an illegal access): only a new process helps."""
