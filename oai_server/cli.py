"""The `oai-server` command line. A plain `serve` is read here; everything else by `oai_server.commands` with typer.

Typer's import and parsing take a third of the time until the port is open.
"""

from __future__ import annotations

import logging
import os
import sys

from engine.errors import ConfigurationError, EngineError
from oai_server.settings import Settings
from oai_server.settings_sources import load_settings, options

COMMANDS = ("serve", "generate", "chat", "doctor", "settings")
ABOUT = ("-h", "--help", "--version", "--install-completion", "--show-completion")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. No command means serve. Ends with SystemExit."""
    given = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asks_for_help = bool(given) and given[0] in ABOUT
    if not given or (given[0] not in COMMANDS and not asks_for_help):
        given = ["serve", *given]
    try:
        settings = plain_settings(given[1:]) if given[0] == "serve" else None
        if settings is None:
            from oai_server import commands

            commands.run(given)
        else:
            from oai_server import start

            raise SystemExit(start.run_server(settings))
    except EngineError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def plain_settings(arguments: list[str]) -> Settings | None:
    """What `serve` is told by `--flag value`, `--flag=value` and switches; None for all that needs an explanation."""
    table = {option.flag: option for option in options()}
    switched_off = {option.off_flag: option for option in options() if option.off_flag}
    flags: dict[str, object] = {}
    rest = list(arguments)
    while rest:
        flag, separator, value = rest.pop(0).partition("=")
        if flag in switched_off and not separator:
            flags[switched_off[flag].name] = False
            continue
        option = table.get(flag)
        if option is None or option.multiple or option.name in flags:
            return None
        if option.kind is bool and not separator and (not rest or rest[0].startswith("--")):
            flags[option.name] = True
            continue
        if option.kind is bool or (not separator and (not rest or rest[0].startswith("-"))):
            return None
        flags[option.name] = value if separator else rest.pop(0)
        if rest and not rest[0].startswith("--"):
            return None
    try:
        return load_settings(flags, os.environ)
    except ConfigurationError:
        return None


def _fail(error: EngineError) -> None:
    """One line, no traceback: what is wrong and what to do."""
    import typer

    typer.secho(f"error: {error}", fg="red", err=True)
    raise SystemExit(1)
