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
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from engine.errors import ConfigurationError
from oai_server.settings import EngineSettings, LimitSettings, ModelSettings, ServerSettings, Settings
from oai_server.settings_bounds import check_number, flag_of

logger = logging.getLogger("oai_server")

GROUPS = (ModelSettings, EngineSettings, ServerSettings, LimitSettings)
ENV_PREFIX = "OAI_SERVER_"
ENV_ALIASES = {"VLLM_API_KEY": "api_key"}
OTHER_VARIABLES = frozenset({"OAI_SERVER_NATIVE"})
"""Read elsewhere; not settings."""
_KUBERNETES = re.compile(r"OAI_SERVER_(SERVICE_|PORT_)\w+")
"""What pods are given when a service is called oai-server; its OAI_SERVER_PORT is an address (`tcp://10.0.0.1:80`)."""

EXPECTED: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: 'a JSON object like {"enable_thinking": false}',
}
VALUE_ALIASES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"}


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


@functools.cache
def options() -> tuple[Option, ...]:
    """All settings, group by group, in the order of the source."""
    defaults, hints = Settings(), get_type_hints(Settings)
    found = []
    for group in GROUPS:
        for name, text in _documented_fields(group):
            kind, multiple, choices = _shape(hints[name])
            flag = flag_of(name)
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
        raise ConfigurationError(f"cannot read the settings file {path} as TOML: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = set(Settings.__struct_fields__)
    found = {field: environ[name] for name, field in ENV_ALIASES.items() if environ.get(name)}
    for name, value in environ.items():
        field = name.removeprefix(ENV_PREFIX).lower()
        if not value or not name.startswith(ENV_PREFIX) or name in OTHER_VARIABLES:
            continue
        if field not in known or (field == "port" and value.startswith("tcp://")):
            if not _KUBERNETES.fullmatch(name):
                logger.warning("the environment's %s is no setting and has no effect", name)
            continue
        found[field] = value
    return found


def _convert(raw: dict[str, Any], source: str) -> dict[str, Any]:
    hints = get_type_hints(Settings)
    converted = {}
    for name, value in raw.items():
        if name not in hints:
            raise ConfigurationError(f"unknown setting {name!r} in {source}")
        try:
            converted[name] = msgspec.convert(_spelled_out(value, hints[name]), hints[name], strict=False)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            kind, multiple, choices = _shape(hints[name])
            expected = f"one of {', '.join(choices)}" if choices else EXPECTED.get(kind)
            reason = f"expected {expected}, got {value!r:.80}" if expected and not multiple else str(error)
            raise ConfigurationError(f"{flag_of(name)} (from {source}): {reason}") from error
    return converted


def _spelled_out(value: Any, hint: Any) -> Any:
    """Strings as people write them: 32k, a,b,c, ["a"], {"enable_thinking": false}."""
    if not isinstance(value, str):
        return value
    kind, multiple, choices = _shape(hint)
    if choices:
        return value if value in choices else VALUE_ALIASES.get(value, value)
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
