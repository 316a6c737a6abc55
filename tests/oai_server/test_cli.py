"""The command line: vLLM's habits, sources of settings, one-line errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from oai_server import cli, cli_options
from oai_server.settings import Settings

ROOT = Path(__file__).parents[2]


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Settings:
    seen: list[Settings] = []

    def run_server(settings: Settings) -> int:
        seen.append(settings)
        return 0

    start = pytest.importorskip("oai_server.start")
    monkeypatch.setattr(start, "run_server", run_server)
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 0
    return seen[0]


def test_serve_is_the_default_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch) == Settings()
    assert settings_of(monkeypatch, "--port", "8123").port == 8123
    assert settings_of(monkeypatch, "serve", "some/folder").model == "some/folder"


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (["--max-model-len", "32k"], "max_model_len", 32_000),
        (["--max-model-len=4096"], "max_model_len", 4096),
        (["--api-key", "a", "b"], "api_key", ("a", "b")),
        (["--api-key", "a", "--api-key", "b"], "api_key", ("a", "b")),
        (["--served-model-name", "x", "y"], "served_model_name", ("x", "y")),
        (["--no-enable-prefix-caching"], "enable_prefix_caching", False),
        (["--disable-uvicorn-access-log"], "access_log", False),
        (["--api-server-count", "2"], "api_workers", 2),
        (["--max_model_len", "4096"], "max_model_len", 4096),
        (["--dtype", "half"], "dtype", "float16"),
        (["--trust-remote-code", "some/folder"], "model", "some/folder"),
        (["--swap-space", "4", "some/folder"], "model", "some/folder"),
        (["--swap-space=4", "some/folder"], "model", "some/folder"),
        (["-tp", "1", "some/folder"], "model", "some/folder"),
        (["-O3", "some/folder"], "model", "some/folder"),
        (
            ["--default-chat-template-kwargs", '{"enable_thinking": false}'],
            "default_chat_template_kwargs",
            {"enable_thinking": False},
        ),
    ],
)
def test_flags(monkeypatch: pytest.MonkeyPatch, given: list[str], field: str, value: object) -> None:
    assert getattr(settings_of(monkeypatch, "serve", *given), field) == value


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--port", "8123"],
        ["--port=8123", "--no-access-log", "--max-model-len", "32k", "--gpu-memory-utilization", "0.5"],
        ["--access-log", "--enforce-eager", "--log-level=debug"],
        ["--default-chat-template-kwargs", '{"enable_thinking": false}', "--chat-template="],
    ],
    ids=str,
)
def test_a_plain_line_is_read_as_the_whole_command_line_reads_it(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    plain = cli.plain_settings(given)
    assert plain is not None
    monkeypatch.setattr(cli, "plain_settings", lambda arguments: None)
    assert settings_of(monkeypatch, "serve", *given) == plain


STRANGE = """folder|--help|-h|--no-such-flag|--port|--port --seed|--port x|--port 1 2|--port 1 --port 2|--api-key a
--access-log true|--access-log=true|--config x.toml|--dtype int3"""


@pytest.mark.parametrize("given", re.split(r"[|\n]", STRANGE))
def test_all_that_needs_an_explanation_is_left_to_the_whole_command_line(given: str) -> None:
    assert cli.plain_settings(given.split()) is None


def test_flags_that_vllm_dropped_only_warn(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_of(monkeypatch, "serve", "--disable-log-requests", "--swap-space", "4", "--port", "9")
    assert settings.port == 9
    assert {record.args[0] for record in caplog.records if record.args} == {"--disable-log-requests", "--swap-space"}


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 1\nseed = 2\nmax_num_seqs = 3\n")
    monkeypatch.setenv("OAI_SERVER_PORT", "11")
    monkeypatch.setenv("OAI_SERVER_SEED", "12")
    settings = settings_of(monkeypatch, "--config", str(file), "--port", "21")
    assert (settings.port, settings.seed, settings.max_num_seqs) == (21, 12, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["serve", "--model", "/no/such/folder"], "/no/such/folder"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--dtype", "int3"], "--dtype"),
        (["serve", "--no-such-flag"], "no-such-flag"),
        (["serve", "./no-such-folder"], "./no-such-folder"),
        (["serve", "--tensor-parallel-size", "2"], "--tensor-parallel-size 2 is not supported"),
        (["serve", "--quantization=awq"], "--quantization awq is not supported"),
        (["serve", "--port", "0", "--ssl-keyfile", "no.pem", "--ssl-certfile", "no.crt"], "no.crt"),
        (["serve", "--port", "0", "--model", "tests"], "config.json: no such file"),
        (["serve", "--port", "0", "--reasoning-parser", "nonesuch"], "--reasoning-parser nonesuch: known are"),
    ],
)
def test_mistakes_are_one_clear_line(given: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oai_server", *given],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_person_is_told_once_when_the_server_is_ready_and_where(workers: str) -> None:
    command = [sys.executable, "-m", "oai_server", "serve", "--port", "0", "--api-workers", workers]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "try   " in line:
                server.terminate()
    where = {url for line in said for url in re.findall(r"http://127\.0\.0\.1:\d+", line)}
    assert server.returncode == 0
    assert len(where) == 1
    assert sum("ready  " in line for line in said) == 1


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("oai-server ")


def test_the_settings_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == cli_options.settings_reference(), "run: make docs"
