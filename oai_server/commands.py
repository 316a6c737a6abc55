"""The commands of `oai-server`, with their flags and help."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from oai_server import __version__, cli_options
from oai_server.settings import Settings
from oai_server.settings_sources import options
from oai_server.vllm_flags import vllm_habits

app = typer.Typer(
    name="oai-server",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArgument = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Folder or Hugging Face id; as --model.")
]
ConfigFile = Annotated[str | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oai-server {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """An OpenAI-compatible server for Qwen models. Without a command it serves: `oai-server --port 8123`.

    The server's flags: `oai-server serve --help`.
    """


def serve(settings: Settings, model_argument: ModelArgument = None, config: ConfigFile = None) -> None:
    """Start the server (the default command)."""
    from oai_server.start import run_server

    raise SystemExit(run_server(settings))


def generate(
    settings: Settings,
    text: Annotated[str, typer.Argument(help="How the text begins.")],
    max_tokens: Annotated[int, typer.Option(help="Longest continuation.", min=1)] = 128,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default: the model's own.")] = None,
    config: ConfigFile = None,
) -> None:
    """Continue a text, without a server."""
    from oai_server.terminal_chat import generate_once

    raise SystemExit(asyncio.run(generate_once(settings, text, max_tokens, temperature)))


def chat(
    settings: Settings,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    thinking: Annotated[bool, typer.Option(help="Let the model think first.")] = False,
    config: ConfigFile = None,
) -> None:
    """Chat in the terminal, without a server. The conversation is remembered; /new forgets it, /quit leaves."""
    from oai_server.terminal_chat import chat_loop

    raise SystemExit(asyncio.run(chat_loop(settings, system, thinking)))


@app.command()
def doctor() -> None:
    """Say what hardware was found, what will run on it and why, and what would be faster."""
    from oai_server.doctor import report

    raise SystemExit(report())


@app.command(hidden=True)
def settings() -> None:
    """Print the settings reference as Markdown."""
    typer.echo(cli_options.settings_reference(), nl=False)


for _command in (serve, generate, chat):
    app.command()(cli_options.with_settings(_command))


def run(given: list[str]) -> None:
    """One command line. vLLM's spellings of flags are understood. Ends with SystemExit."""
    if given[0] in ("serve", "generate", "chat"):
        many = {option.flag for option in options() if option.multiple}
        given = [given[0], *vllm_habits(given[1:], many)]
    app(args=given, prog_name="oai-server")
