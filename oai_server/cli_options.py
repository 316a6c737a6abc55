"""The flags of `serve`, made from the settings table."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from engine.errors import ConfigurationError
from oai_server.settings_sources import Option, load_settings, options


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `(settings, **own)` one flag for each setting; `settings` is what all sources say together."""
    table = options()
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
    parameters = [*own, *(_parameter(option) for option in table)]

    def run(config: Any = None, **given: Any) -> None:
        flags = {option.name: given.pop(option.name) for option in table}
        model = given.pop("model_argument", None)
        if model:
            flags["model"] = model
        try:
            settings = load_settings({k: v for k, v in flags.items() if v not in (None, [])}, os.environ, config)
        except ConfigurationError as error:
            raise typer.BadParameter(str(error)) from error
        command(settings, **given)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(option: Option) -> inspect.Parameter:
    flags = f"{option.flag}/{option.off_flag}" if option.off_flag else option.flag
    kind: Any = str if option.kind is dict or option.kind is int else option.kind
    note = "" if option.default in (None, (), "", {}) else f" \\[{_shown(option.default)}]"
    choices = f" One of: {', '.join(option.choices)}." if option.choices else ""
    info = typer.Option(
        flags,
        help=" ".join(option.help.split()) + choices + note,
        rich_help_panel=option.group,
        show_default=False,
        metavar=_metavar(option),
    )
    value: Any = list[kind] if option.multiple else kind
    hint: Any = Annotated[value | None, info]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _shown(default: Any) -> str:
    return {True: "on", False: "off"}[default] if isinstance(default, bool) else str(default)


def _metavar(option: Option) -> str | None:
    return {int: "N", float: "X", dict: "JSON", str: "TEXT"}.get(option.kind)


def settings_reference() -> str:
    """The settings as Markdown, for docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "A flag (`--max-model-len 32k`), an environment variable (`OAI_SERVER_MAX_MODEL_LEN=32k`), or a key of the",
        'TOML file given as `--config` (`max_model_len = "32k"`). A flag wins over a variable, a variable over the',
        "file. Switches are turned off with `--no-` before the name; flags that may be repeated take several values",
        "at once, too (`--served-model-name a b`).",
        "",
        "Flags of `vllm serve` that have no task here are accepted with a warning; those for what is not served",
        "(`--tensor-parallel-size 2`, `--quantization awq`) are an error.",
    ]
    group = ""
    for option in options():
        if option.group != group:
            group = option.group
            lines += ["", f"## {group}", "", "| flag | default | what it does |", "| --- | --- | --- |"]
        text = " ".join(option.help.split()).replace("|", "\\|")
        choices = f" One of {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
        default = "" if option.default in (None, (), "", {}) else f"`{_shown(option.default)}`"
        lines.append(f"| `{option.flag}` | {default} | {text}{choices} |")
    return "\n".join(lines) + "\n"
