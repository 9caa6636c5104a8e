"""The flags of start and torchserve, on their way into the configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from torchserve_lite.cli.server_arguments import add_server_arguments, command_line_settings, read_configuration
from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.settings import Config
from torchserve_lite.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    return tmp_path


def _parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_server_arguments(parser)
    return parser.parse_args(argv)


def _configured(*argv: str, **environ: str) -> Config:
    return read_configuration(_parsed(*argv), environ)


def test_every_flag_of_the_table_is_there() -> None:
    assert command_line_settings(_parsed()) == {}
    assert {key.flag for key in KEYS.values() if key.flag} <= set(_flags())


def _flags() -> list[str]:
    parser = argparse.ArgumentParser()
    add_server_arguments(parser)
    return [flag for action in parser._actions for flag in action.option_strings]


def test_flags_become_settings_of_their_twins() -> None:
    arguments = _parsed("--model-store", "store", "--models", "a.mar", "b=c.mar", "--dt", "--ppath", "p")
    assert command_line_settings(arguments) == {
        "model_store": "store",
        "load_models": "a.mar,b=c.mar",
        "disable_token_authorization": "true",
        "plugins_path": "p",
    }


def test_kserves_arguments_are_taken(folder: Path) -> None:
    """What KServe's serving runtime passes; its samples append the last two."""
    (folder / "c.properties").write_text("job_queue_size=7")
    config = _configured(
        "--model-store=store", "--ts-config=c.properties", "--disable-token-auth", "--enable-model-api", "--ncs"
    )
    assert (config.models.store, config.workers.queue_size) == (folder / "store", 7)
    assert config.access.model_api


def test_usual_file_of_the_folder_is_read(folder: Path) -> None:
    (folder / "config.properties").write_text("model_store=store")
    assert _configured().source == Path("config.properties")


def test_environment_names_the_file(folder: Path) -> None:
    (folder / "named").write_text("model_store=store")
    assert _configured(TS_CONFIG_FILE="named").source == Path("named")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param([], "Missing mandatory parameter --model-store", id="no model store"),
        pytest.param(["--model-store", "nowhere"], "--model-store directory not found: nowhere", id="no folder"),
        pytest.param(["--workflow-store", "nowhere"], "--workflow-store directory not found: nowhere", id="workflows"),
        pytest.param(["--ts-config", "nowhere"], "--ts-config file not found: nowhere", id="no file"),
    ],
)
def test_what_cannot_be_started_says_why_in_torchserves_words(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _configured(*argv)


def test_log_config_is_accepted_with_a_notice() -> None:
    notices = _configured("--model-store", "store", "--dt", "--log-config", "log4j2.xml").notices
    assert notices == ("--log-config log4j2.xml has no effect: it configures Java's log4j2.",)
