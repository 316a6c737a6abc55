"""Where settings come from: flags, then OAI_SERVER_* variables, then a TOML file, then the defaults.

`options()` is the table that the command line is generated from; it reads names, types and defaults from the
Settings Struct and the help texts from the docstrings under its fields, so that nothing is written twice.
"""

from __future__ import annotations

import ast
import functools
import inspect
import logging
import re
import textwrap
import tomllib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from engine.errors import ConfigurationError
from oai_server.settings import Settings
from oai_server.settings_bounds import check_number

logger = logging.getLogger("oai_server")

ENV_PREFIX = "OAI_SERVER_"
ENV_ALIASES = {"VLLM_API_KEY": "api_key"}

GONE_FLAGS: dict[str, str] = {
    "--swap-space": "preempted requests are recomputed",
    "--disable-log-requests": "requests are never logged with their text",
    "--enable-log-requests": "requests are never logged with their text",
    "--guided-decoding-backend": "there is one grammar backend",
    "--enable-reasoning": "the reasoning parser is chosen from the model",
    "--use-v2-block-manager": "there is one block manager",
    "--enable-auto-tool-choice": "tool calls are always parsed",
    "--enable-chunked-prefill": "prefill is always chunked",
    "--enable-prompt-tokens-details": "usage always has them",
    "--enable-request-id-headers": "x-request-id is always sent",
    "--disable-log-stats": "statistics are at /metrics",
    "--trust-remote-code": "code from a model folder is never run",
    "--async-scheduling": "the engine decides itself",
    "--compilation-config": "nothing is compiled ahead",
    "--cpu-offload-gb": "weights are not offloaded",
    "--tensor-parallel-size": "one device is used",
    "--chat-template-content-format": "message content is made fit for the template",
}
"""Flags that scripts for vLLM still pass. They are accepted, with a warning that says why they do nothing."""

FLAG_ALIASES: dict[str, str] = {
    "--api-server-count": "--api-workers",
    "-asc": "--api-workers",
    "--uvicorn-log-level": "--log-level",
    "--scheduling-policy": "--policy",
    "--disable-uvicorn-access-log": "--no-access-log",
    "--disable-prefix-caching": "--no-enable-prefix-caching",
}
"""Other spellings of flags."""


class Option(msgspec.Struct, frozen=True):
    """One setting as the command line needs it."""

    name: str
    """Field of Settings."""
    flag: str
    """`--max-model-len`."""
    off_flag: str | None
    """`--no-enable-prefix-caching` for a switch, else None."""
    kind: type
    """str, int, float, bool or dict (JSON): of one value."""
    multiple: bool
    """Whether the flag may be repeated."""
    choices: tuple[str, ...]
    """The allowed values, when they are few."""
    default: Any
    group: str
    help: str

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()


@functools.cache
def options() -> tuple[Option, ...]:
    """All settings, group by group, in the order of the source."""
    defaults = Settings()
    found = []
    for group in reversed(Settings.__mro__):
        if group is msgspec.Struct or not issubclass(group, msgspec.Struct):
            continue
        hints = inspect.get_annotations(group, eval_str=True)
        for name, text in _documented_fields(group):
            kind, multiple, choices = _shape(hints[name])
            flag = "--" + name.replace("_", "-")
            found.append(
                Option(
                    name=name,
                    flag=flag,
                    off_flag="--no-" + flag[2:] if kind is bool else None,
                    kind=kind,
                    multiple=multiple,
                    choices=choices,
                    default=getattr(defaults, name),
                    group=(group.__doc__ or "").strip(),
                    help=text,
                )
            )
    return tuple(found)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
) -> Settings:
    """Settings from all sources. `flags` holds what was given on the command line, by field name.

    Raises ConfigurationError that names the source and the setting.
    """
    values: dict[str, Any] = {}
    for source, raw in (
        (f"{config_file}", _from_file(config_file) if config_file else {}),
        ("the environment", _from_environment(environ or {})),
        ("the command line", dict(flags or {})),
    ):
        values |= _convert(raw, source)
    settings = Settings(**values)
    _check(settings)
    return settings


# ---- reading


def _from_file(path: str | Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return {key.replace("-", "_"): value for key, value in tomllib.load(file).items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = set(Settings.__struct_fields__)
    found = {field: environ[name] for name, field in ENV_ALIASES.items() if environ.get(name)}
    for name, value in environ.items():
        field = name.removeprefix(ENV_PREFIX).lower()
        if value and name.startswith(ENV_PREFIX) and field in known:
            found[field] = value
    return found


def _convert(raw: dict[str, Any], source: str) -> dict[str, Any]:
    hints = {name: hint for group in Settings.__mro__ for name, hint in _hints(group)}
    converted = {}
    for name, value in raw.items():
        if name not in hints:
            raise ConfigurationError(f"unknown setting {name!r} in {source}")
        try:
            converted[name] = msgspec.convert(_spelled_out(value, hints[name]), hints[name], strict=False)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            flag = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{flag} (from {source}): {error}") from error
    return converted


def _hints(group: type) -> Iterator[tuple[str, Any]]:
    yield from inspect.get_annotations(group, eval_str=True).items()


def _spelled_out(value: Any, hint: Any) -> Any:
    """Strings as people write them: 32k, a,b,c, ["a"], {"enable_thinking": false}."""
    if not isinstance(value, str):
        return value
    kind, multiple, _ = _shape(hint)
    if multiple:
        return msgspec.json.decode(value) if value.startswith("[") else [part for part in value.split(",") if part]
    if kind is dict:
        return msgspec.json.decode(value)
    if kind is int and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM])", value)):
        return int(float(match[1]) * {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}[match[2]])
    return value


def _check(settings: Settings) -> None:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_number(name, value)
    if any(not key for key in settings.api_key):
        raise ConfigurationError("--api-key must not be empty")
    if bool(settings.ssl_keyfile) != bool(settings.ssl_certfile):
        raise ConfigurationError("--ssl-keyfile and --ssl-certfile belong together")


# ---- looking at the Struct


def _documented_fields(group: type) -> Iterator[tuple[str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    if not isinstance(body, ast.ClassDef):
        return
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            documented = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            yield field.target.id, str(text.value.value) if documented else ""  # type: ignore[attr-defined]


def _shape(hint: Any) -> tuple[type, bool, tuple[str, ...]]:
    """(type of one value, may be repeated, allowed values) of a field's annotation."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, ()
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    if get_origin(hint) is dict:
        return dict, False, ()
    return hint, False, ()
