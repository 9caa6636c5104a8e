"""The flags of start and torchserve, on their way into the configuration."""

from __future__ import annotations

import argparse
import json
import os
import threading
from pathlib import Path

import pytest

from torchserve_lite.cli.server_arguments import (
    add_address_arguments,
    add_server_arguments,
    command_line_settings,
    read_configuration,
)
from torchserve_lite.cli.start_checks import await_models
from torchserve_lite.config.keys import KEYS
from torchserve_lite.config.properties import properties_text
from torchserve_lite.config.settings import Config
from torchserve_lite.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    return tmp_path


def _parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_address_arguments(parser)
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


def test_file_in_a_pod_is_found_where_the_wrapper_looks_for_it(folder: Path) -> None:
    (folder / "c.properties").write_text("job_queue_size=7\nmodel_store=store")
    assert _configured(PROTOCOL_VERSION="v2", CONFIG_PATH="c.properties").workers.queue_size == 7


def test_models_that_come_as_an_image_are_waited_for(folder: Path) -> None:
    """KServe mounts such a volume as a link that appears while the server starts."""
    link = threading.Timer(0, lambda: (folder / "models").symlink_to("store"))
    link.start()
    await_models(_parsed("--model-store", "models"), {"MODEL_INIT_MODE": "async"})
    link.join()
    assert (folder / "models").is_dir()


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


def test_log_config_of_torchserves_is_accepted_with_a_notice() -> None:
    """Images and charts pass one, also one that is not there."""
    (notice,) = _configured("--model-store", "store", "--dt", "--log-config", "log4j2.xml").notices
    assert "--log-config log4j2.xml has no effect: it configures Java's log4j2." in notice


def test_log_config_of_pythons_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "logging.yaml"
    file.write_text("root: {level: DEBUG}\n")
    config = _configured("--model-store", "store", "--dt", "--log-config", str(file))
    assert (config.logs.file, config.notices) == (file, ())


def _snapshot(folder: Path, *, log_folder: str = "logs", **texts: str) -> Path:
    """One with the model m, saved on a day in 2026."""
    fields = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
    models = {"m": {"1.0": {**fields, "maxBatchDelay": 100}}}
    snapshot = json.dumps({"created": 1_790_000_000_000, "modelCount": 1, "models": models})
    file = folder / log_folder / "config" / "20260921123456789-snapshot.cfg"
    file.parent.mkdir(parents=True)
    file.write_text(properties_text({"model_store": "store", "model_snapshot": snapshot, **texts}, ""))
    return file


def test_last_snapshot_comes_before_the_folders_configuration_file_and_models(folder: Path) -> None:
    _snapshot(folder, job_queue_size="7")
    (folder / "config.properties").write_text("job_queue_size=8\nmetrics_mode=prometheus\nmodel_store=store")
    config = _configured("--models", "a.mar", "b=c.mar")
    assert [model.name for model in config.models.startup] == ["m"]
    assert config.workers.queue_size == 7
    notice = config.notices[0]
    assert "restores the settings and 1 model of the snapshot logs/config/20260921123456789-snapshot.cfg" in notice
    assert "Not used: config.properties (" in notice
    assert "it says otherwise about job_queue_size, metrics_mode); --models." in notice
    assert "--ncs" in notice


@pytest.mark.parametrize("then", [1_789_000_000, 1_791_000_000])
def test_change_of_the_configuration_file_since_the_snapshot_is_told(folder: Path, then: int) -> None:
    _snapshot(folder)
    (folder / "config.properties").write_text("")
    os.utime("config.properties", (then, then))
    assert ("changed since then" in _configured().notices[0]) == (then > 1_790_000_000)


def test_flags_but_for_models_stand_above_the_snapshot(folder: Path) -> None:
    (folder / "other").mkdir()
    _snapshot(folder)
    assert _configured("--model-store", "other").models.store == folder / "other"


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        pytest.param(["--ts-config", "config.properties"], {}, id="a file is named"),
        pytest.param([], {"TS_CONFIG_FILE": "config.properties"}, id="a file is named in the environment"),
        pytest.param(["--ncs"], {}, id="switched off"),
    ],
)
def test_snapshot_is_left_aside(folder: Path, argv: list[str], environ: dict[str, str]) -> None:
    _snapshot(folder)
    (folder / "config.properties").write_text("model_store=store\ndisable_token_authorization=true")
    config = _configured(*argv, **environ)
    assert (config.models.startup, config.notices) == ((), ())
    assert (config.snapshots is None) == (argv == ["--ncs"])


def test_configuration_file_can_switch_snapshots_off(folder: Path) -> None:
    _snapshot(folder)
    (folder / "config.properties").write_text("model_store=store\nconfig_snapshots=false")
    config = _configured()
    assert (config.models.startup, config.snapshots) == ((), None)


def test_snapshots_are_beside_the_logs(folder: Path) -> None:
    _snapshot(folder, log_folder="elsewhere")
    config = _configured(LOG_LOCATION="elsewhere")
    assert config.snapshots is not None
    assert config.snapshots.folder == Path("elsewhere/config")
    assert len(config.models.startup) == 1


def test_models_of_the_environment_are_not_used_beside_a_snapshot(folder: Path) -> None:
    _snapshot(folder)
    environ = {"TS_ENABLE_ENVVARS_CONFIG": "true", "TS_MODEL_SNAPSHOT": '{"models": {}}', "TS_JOB_QUEUE_SIZE": "7"}
    config = _configured(**environ)
    assert (len(config.models.startup), config.workers.queue_size) == (1, 7)
    assert "Not used: TS_MODEL_SNAPSHOT." in config.notices[0]


@pytest.mark.parametrize(
    ("argv", "configured", "listens"),
    [
        pytest.param(["--port", "9000"], "", "http://127.0.0.1:9000", id="port alone"),
        pytest.param(["--host", "0.0.0.0"], "", "http://0.0.0.0:8080", id="host alone"),
        pytest.param(["--host", "[::1]", "--port", "9000"], "", "http://[::1]:9000", id="both"),
        pytest.param(["--port", "9000"], "http://0.0.0.0:8085", "http://0.0.0.0:9000", id="configured host stays"),
        pytest.param(["--port", "9000"], "unix:/tmp/s.sock", "http://127.0.0.1:9000", id="in place of a socket"),
    ],
)
def test_host_and_port_name_the_inference_address(argv: list[str], configured: str, listens: str, folder: Path) -> None:
    if configured:
        (folder / "config.properties").write_text(f"inference_address={configured}\n")
    config = _configured("--model-store", "store", *argv)
    assert str(config.http.inference) == listens


def test_port_stands_above_the_variable(folder: Path) -> None:
    (folder / "config.properties").write_text("enable_envvars_config=true\n")
    config = _configured("--model-store", "store", "--port", "9000", TS_INFERENCE_ADDRESS="http://127.0.0.1:1")
    assert config.http.inference is not None
    assert config.http.inference.port == 9000


def test_log_level_is_handed_on() -> None:
    assert _configured("--model-store", "store", "--log-level", "warning").logs.level == "warning"
