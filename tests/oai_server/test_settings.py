"""Settings: one table, three sources, errors that name the flag."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.errors import ConfigurationError
from oai_server.settings import Settings
from oai_server.settings_sources import load_settings, options
from oai_server.vllm_flags import FLAG_ALIASES, GONE_OPTIONS, GONE_SWITCHES, NOT_SERVED, SHORT


def test_every_field_is_an_option_with_help() -> None:
    table = options()
    assert [option.name for option in table] == list(Settings.__struct_fields__)
    assert [option.name for option in table if len(option.help) < 10] == []
    assert {option.group for option in table} == {"Model", "Engine", "Server", "Limits"}


def test_flag_before_variable_before_file(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('port = 1\nhost = "::1"\nmax-num-seqs = 7\n')
    environ = {"OAI_SERVER_PORT": "2", "OAI_SERVER_MAX_NUM_SEQS": "8", "OAI_SERVER_DTYPE": ""}
    settings = load_settings({"port": 3}, environ, config)
    assert (settings.port, settings.max_num_seqs, settings.host, settings.dtype) == (3, 8, "::1", "auto")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_model_len", "32k", 32_000),
        ("max_model_len", "32K", 32_768),
        ("max_model_len", "4096", 4096),
        ("api_key", "a,b", ("a", "b")),
        ("allowed_origins", '["*"]', ("*",)),
        ("enable_prefix_caching", "false", False),
        ("enforce_eager", "true", True),
        ("default_chat_template_kwargs", '{"enable_thinking": false}', {"enable_thinking": False}),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("dtype", "half", "float16"),
        ("dtype", "bf16", "bfloat16"),
    ],
)
def test_people_s_spellings(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({}, {f"OAI_SERVER_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": "http"}, "--port .* a whole number, got 'http'"),
        ({"port": 70_000}, "--port"),
        ({"dtype": "float8"}, "--dtype .* one of auto, bfloat16, float16, float32, got 'float8'"),
        ({"max_num_seqs": -1}, "--max-num-seqs"),
        ({"max_num_seqs": 0}, "--max-num-seqs must be at least 1"),
        ({"max_model_len": 0}, "--max-model-len must be at least 1"),
        ({"max_n": 0}, "--max-n"),
        ({"gpu_memory_utilization": 1.5}, "--gpu-memory-utilization must be at most 1"),
        ({"kv_cache_memory_gib": 0.0}, "--kv-cache-memory-gib must be above 0"),
        ({"keep_alive_timeout": float("nan")}, "--keep-alive-timeout must be a finite number"),
        ({"request_timeout": float("inf")}, "--request-timeout must be a finite number"),
        ({"request_timeout": -1.0}, "--request-timeout must not be negative"),
        ({"api_key": ("",)}, "--api-key"),
        ({"ssl_keyfile": "x"}, "--ssl-certfile"),
        ({"no_such": 1}, "no_such"),
        ({"default_chat_template_kwargs": "{"}, "--default-chat-template-kwargs .* a JSON object"),
    ],
)
def test_impossible_settings_name_the_flag(flags: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_settings(flags)


def test_zero_switches_off_what_says_so() -> None:
    assert load_settings({"request_timeout": 0.0, "max_tools": 0, "sse_keep_alive_interval": 0}).max_tools == 0


def test_a_variable_that_is_no_setting_is_named(caplog: pytest.LogCaptureFixture) -> None:
    load_settings({}, {"OAI_SERVER_PROT": "1", "OAI_SERVER_NATIVE": "1", "OAI_SERVER_SEED": "2", "PATH": "x"})
    assert [record.args for record in caplog.records] == [("OAI_SERVER_PROT",)]


def test_kubernetes_variables_of_a_service_are_no_settings(caplog: pytest.LogCaptureFixture) -> None:
    address = {
        "OAI_SERVER_SERVICE_HOST": "10.0.0.1",
        "OAI_SERVER_PORT_80_TCP_ADDR": "10.0.0.1",
        "OAI_SERVER_PORT": "tcp://10.0.0.1:80",
    }
    assert load_settings({}, address).port == 8000
    assert [record.args for record in caplog.records] == [("OAI_SERVER_PORT",)]


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        load_settings(config_file=tmp_path / "none.toml")


def test_gone_flags_and_aliases_lead_somewhere() -> None:
    flags = {option.flag for option in options()} | {option.off_flag for option in options()}
    foreign = {*GONE_SWITCHES, *GONE_OPTIONS, *NOT_SERVED}
    assert not flags & foreign
    assert set(FLAG_ALIASES.values()) <= flags
    assert set(SHORT.values()) <= foreign


def test_engine_config_takes_the_engine_s_share() -> None:
    settings = Settings(model="somewhere", max_num_seqs=3, num_gpu_blocks_override=9)
    config = settings.engine_config("elsewhere")
    assert (config.model_path, config.max_num_seqs, config.num_blocks) == ("elsewhere", 3, 9)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
    assert msgspec.structs.replace(Settings(), port=1).port == 1
