"""``torchserve-lite config``: what a start would be configured as, where each value comes from, and what is wrong."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.cli import main
from torchserve_lite.config.keys import KEYS

_FILE = """
enable_envvars_config=true
model_store=store
job_queue_size=7
keystore_pass=hush
my_password=hush
inferense_address=x
load_models=m=https://user:hush@host/m.mar?signature=hush
io_ratio=60
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "store").mkdir()
    (tmp_path / "c.properties").write_text(_FILE)
    return tmp_path


def _document(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    assert main(["config", "--config", "c.properties", "--json", *argv]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_every_key_is_shown_with_its_value_and_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TS_DEFAULT_RESPONSE_TIMEOUT", "9")
    document = _document(capsys, "--disable-token-auth")
    assert (document["file"], document["problems"]) == ("c.properties", [])
    settings = document["settings"]
    assert set(KEYS) <= set(settings)
    found = {
        name: (settings[name]["value"], settings[name]["origin"], settings[name]["place"])
        for name in ("max_request_size", "job_queue_size", "disable_token_authorization", "default_response_timeout")
    }
    assert found == {
        "max_request_size": (6553500, "default", None),
        "job_queue_size": (7, "file", "c.properties"),
        "disable_token_authorization": (True, "command line", "--disable-token-auth"),
        "default_response_timeout": (9.0, "environment", "TS_DEFAULT_RESPONSE_TIMEOUT"),
    }


def test_changed_shows_only_what_somebody_set(capsys: pytest.CaptureFixture[str]) -> None:
    origins = {fields["origin"] for fields in _document(capsys, "--changed")["settings"].values()}
    assert origins == {"file"}


@pytest.mark.parametrize("form", [[], ["--json"], ["keystore_pass"], ["my_password", "--json"], ["load_models"]])
def test_secrets_are_not_shown(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "--config", "c.properties", *form])
    output = capsys.readouterr()
    assert "***" in output.out
    assert "hush" not in output.out + output.err


def test_regular_expressions_are_shown_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c.properties").write_text("model_store=store\nallowed_urls=https?://host/(a|b)?/.*\n")
    assert _document(capsys)["settings"]["allowed_urls"]["value"] == "https?://host/(a|b)?/.*"


def test_unknown_key_is_marked_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    fields = _document(capsys)["settings"]["inferense_address"]
    assert (fields["known"], fields["note"]) == (False, "not known; did you mean inference_address?")


def test_key_without_effect_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert _document(capsys)["settings"]["io_ratio"]["note"] == "without effect"


def test_every_bad_value_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c.properties").write_text("model_store=store\njob_queue_size=ten\nworker_launcher=rocket\n")
    assert main(["config", "--config", "c.properties"]) == 1
    output = capsys.readouterr()
    assert "job_queue_size=ten (c.properties): expected a whole number" in output.err
    assert "worker_launcher=rocket (c.properties): expected one of" in output.err
    assert "cannot be used" in output.out


def test_configuration_that_no_server_would_start_with_is_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.properties").write_text("model_store=nowhere\n")
    (problem,) = _document(capsys, code=1)["problems"]
    assert "nowhere (c.properties) cannot be read" in problem


def test_notices_of_a_start_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--config", "c.properties"]) == 0
    assert "warning: inferense_address (c.properties) is not a known setting" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["job_queue_size", "TS_JOB_QUEUE_SIZE"])
def test_one_key_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", name, "--config", "c.properties"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["value"] == "7"
    assert lines["origin"] == "file (c.properties)"
    assert lines["default"] == "100"
    assert lines["variable"].startswith("TS_JOB_QUEUE_SIZE")
    assert lines["meaning"].startswith("Requests that may wait")


def test_key_that_there_is_not_is_an_error_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "job_que_size"]) == 1
    expected = "torchserve-lite: job_que_size is not a known setting. Did you mean job_queue_size?\n"
    assert capsys.readouterr().err == expected


def test_value_cannot_have_its_way_with_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c.properties").write_text("model_store=store\ncors_allowed_origin=a\\u001b[31m\\u009b[bold]\n")
    main(["config", "cors_allowed_origin", "--config", "c.properties"])
    main(["config", "--config", "c.properties"])
    assert "\x1b" not in capsys.readouterr().out


def test_terminal_gets_a_table(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "torchserve_lite", "config", "--changed", "--config", "c.properties"]
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process = subprocess.run(command, stdout=theirs, env=environ | {"COLUMNS": "120", "TERM": "xterm"}, check=False)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        output = terminal.read(65536).decode()
    assert process.returncode == 0
    assert "configuration file: c.properties" in output
    assert "job_queue_size" in output
    assert "─" in output
