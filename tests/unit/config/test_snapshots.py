"""Which snapshot a start takes, what it tells of that, and what of the settings stands in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.config.loading import load_config
from torchserve_lite.config.properties import properties_text, read_properties
from torchserve_lite.config.settings import Config
from torchserve_lite.config.snapshots import last_snapshot
from torchserve_lite.errors import ConfigurationError

_MODEL = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 2, "maxWorkers": 3, "batchSize": 4}


def _saved(folder: Path, stamp: int, kind: str = "snapshot", name: str = "m", **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    models = {name: {"1.0": {**_MODEL, "maxBatchDelay": 5}}}
    properties = {"model_store": ".", "model_snapshot": json.dumps({"modelCount": 1, "models": models}), **texts}
    file = folder / f"{stamp:017d}-{kind}.cfg"
    file.write_text(properties_text({name: text for name, text in properties.items() if text}, "x"))
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _loaded(file: Path, environ: dict[str, str] | None = None, **command_line: str) -> Config:
    return load_config(file, command_line, environ or {})


def _kept(config: Config) -> dict[str, str]:
    assert config.snapshots is not None
    return dict(config.snapshots.properties)


@pytest.mark.parametrize("text", ["a b", " x:y=z#!", "\t\n\\u0041\\", "é€😀", "\udcff", "key with $$"])
def test_properties_are_read_as_they_were_written(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c"
    file.write_text(properties_text({"a key:": text, "next": "1"}, "comment"), encoding="ascii")
    assert read_properties(file) == {"a key:": text.strip(), "next": "1"}


def test_last_snapshot_is_the_newest_by_its_name_whatever_its_kind(folder: Path) -> None:
    newest = _saved(folder, 20260102000000001, "startup")
    _saved(folder, 20260102000000000, "shutdown")
    os.utime(_saved(folder, 20260101000000000), (2e9, 2e9))
    assert last_snapshot(folder).file == newest


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 512, id="zeros after a power cut"),
        pytest.param(b"model_snapshot={", id="torn"),
        pytest.param(b"model_snapshot={}", id="no models"),
        pytest.param(b'model_snapshot={"models": {"m": {"1": {"minWorkers": "many"}}}}', id="bad number"),
    ],
)
def test_damaged_snapshot_is_told_and_the_one_before_it_is_taken(folder: Path, damage: bytes) -> None:
    older = _saved(folder, 20260101000000000)
    _saved(folder, 20260102000000000).write_bytes(damage)
    found = last_snapshot(folder)
    assert found.file == older
    assert "20260102000000000-snapshot.cfg cannot be used" in found.notices[0]


def test_files_that_are_no_snapshots_are_told_and_left_alone(folder: Path) -> None:
    snapshot = _saved(folder, 20260101000000000)
    for name in ("mine.cfg", "20261301000000000-snapshot.cfg"):
        (folder / name).write_text("x")
    (folder / ".snapshot-1.tmp").write_text("x")
    found = last_snapshot(folder)
    assert found.file == snapshot
    (notice,) = found.notices
    assert notice.startswith("20261301000000000-snapshot.cfg, mine.cfg in ")


def test_no_folder_is_no_snapshot(folder: Path) -> None:
    assert last_snapshot(folder / "nowhere").file is None


def test_fields_that_torchserve_loses_are_read_back(folder: Path) -> None:
    fields: dict[str, Any] = {**_MODEL, "workers": 3, "handler": "other.py", "modelUrl": "https://host/m.mar"}
    snapshot = json.dumps({"models": {"m": {"1.0": fields}, "f": {"1.0": {**_MODEL, "nameFromArchive": True}}}})
    first, second = _loaded(_saved(folder, 1, model_snapshot=snapshot)).models.startup
    assert (first.workers, first.handler, first.url) == (3, "other.py", "https://host/m.mar")
    assert (second.workers, second.name) == (None, None)


def test_file_name_wins_where_somebody_has_changed_it(folder: Path) -> None:
    fields = {**_MODEL, "marName": "new.mar", "modelUrl": "https://host/m.mar"}
    snapshot = json.dumps({"models": {"m": {"1.0": fields}}})
    (model,) = _loaded(_saved(folder, 1, model_snapshot=snapshot)).models.startup
    assert model.url == "new.mar"


def test_what_a_snapshot_does_not_say_is_told(folder: Path) -> None:
    snapshot = '{"models": {"m": {"1.0": {"defaultVersion": true, "marName": "m.mar", "minWorkers": 1}}}}'
    notices = _loaded(_saved(folder, 1, model_snapshot=snapshot)).notices
    assert any("does not say maxWorkers, batchSize, maxBatchDelay of model m, version 1.0" in line for line in notices)


def test_torchserves_snapshot_binds_nobody_to_the_machine_it_was_saved_on(folder: Path) -> None:
    (folder / "c.properties").write_text("python=python3")
    config = _loaded(
        _saved(folder, 1, version="0.12.0", number_of_gpu="0", python="/old/python", tsConfigFile="c.properties")
    )
    assert config.workers.number_of_gpu is None
    assert config.workers.python == "python3"


def test_number_of_gpus_that_the_operator_has_set_stays(folder: Path) -> None:
    assert _loaded(_saved(folder, 1, version="torchserve-lite 1", number_of_gpu="1")).workers.number_of_gpu == 1


def test_secrets_are_not_kept_and_are_found_again_in_the_configuration_file(folder: Path) -> None:
    file = folder / "config.properties"
    file.write_text(
        "keystore_pass=hidden1\nvmargs=-Dp=hidden2\nallowed_urls=https://me:hidden3@host/.*\nmystery=hidden4"
    )
    kept = _kept(_loaded(file))
    assert "hidden" not in str(kept)
    restored = _loaded(_saved(folder / "s", 1, version="torchserve-lite 1", **kept))
    assert restored.values["allowed_urls"] == "https://me:hidden3@host/.*"
    assert restored.sources["keystore_pass"] == str(file)
    assert "hidden" not in str(_kept(restored))


def test_variables_are_kept_as_variables(folder: Path) -> None:
    file = folder / "config.properties"
    file.write_text("enable_envvars_config=true\ndefault_service_handler=$$HANDLER$$\njob_queue_size=5")
    kept = _kept(_loaded(file, {"HANDLER": "secret", "TS_JOB_QUEUE_SIZE": "6"}))
    assert (kept["default_service_handler"], kept["job_queue_size"]) == ("$$HANDLER$$", "5")


def test_switches_of_the_command_line_hold_for_their_start_alone(folder: Path) -> None:
    file = folder / "config.properties"
    file.write_text("")
    kept = _kept(_loaded(file, disable_token_authorization="true", enable_model_api="true", model_store="store"))
    assert kept.keys() == {"model_store", "tsConfigFile"}
    assert kept["model_store"] == str(folder / "store")


def test_relative_paths_of_a_snapshot_start_where_those_of_its_original_do(folder: Path) -> None:
    (folder / "there" / "archives").mkdir(parents=True)
    (folder / "there" / "c.properties").write_text("")
    snapshot = _saved(folder, 1, model_store="archives", tsConfigFile="there/c.properties")
    assert _loaded(snapshot).models.store == folder / "there" / "archives"


def test_which_models_were_loaded_is_not_kept_beside_what_is_served(folder: Path) -> None:
    file = folder / "config.properties"
    file.write_text("load_models=all\nmetrics_format=log\nmodels={}")
    assert _kept(_loaded(file)).keys() == {"metrics_format", "models", "tsConfigFile"}


def test_setting_that_cannot_be_used_names_the_snapshot(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"job_queue_size=ten .*-snapshot\.cfg"):
        _loaded(_saved(folder, 1, job_queue_size="ten"))
