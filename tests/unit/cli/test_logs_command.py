"""The running server's log files, shown and followed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.operators.conftest import heed_interruption
from torchserve_lite.cli import main
from torchserve_lite.cli.logs import Tail


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOG_LOCATION", raising=False)
    (folder := tmp_path / "logs").mkdir()
    (folder / "ts_log.log").write_text("first\nsecond\nthird\n")
    (folder / "access_log.log").write_text("a request\n")
    return folder


@pytest.fixture
def tail(logs: Path) -> Iterator[Tail]:
    with Tail(logs / "ts_log.log") as tail:
        tail.last(0)
        yield tail


def test_last_lines_are_shown(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["logs", "-n", "2"]) == 0
    assert capfdbinary.readouterr().out == b"second\nthird\n"


def test_another_file_is_shown_by_its_name(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["logs", "access"]) == 0
    assert capfdbinary.readouterr().out == b"a request\n"


def test_files_of_the_running_server_are_shown(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """It runs in another folder and logs where its own variable says."""
    (elsewhere := tmp_path / "elsewhere" / "own").mkdir(parents=True)
    (elsewhere / "ts_log.log").write_text("of the server\n")
    script = "print(flush=True); import signal; signal.pause()"
    server = subprocess.Popen(
        [sys.executable, "-c", script, "torchserve-lite", "start"],
        cwd=elsewhere.parent,
        env=os.environ | {"LOG_LOCATION": "own"},
        stdout=subprocess.PIPE,
    )
    with server:
        assert server.stdout is not None
        server.stdout.readline()
        (tmp_path / ".model_server.pid").write_text(str(server.pid))
        assert main(["logs"]) == 0
        server.kill()
    assert capfdbinary.readouterr().out == b"of the server\n"


def test_folder_without_log_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--folder", str(tmp_path)]) == 1
    assert "There is no log file" in capsys.readouterr().err


def test_following_goes_on_until_it_is_interrupted(logs: Path) -> None:
    command = [sys.executable, "-m", "torchserve_lite", "logs", "-f", "-n", "1"]
    environ = os.environ | {"TMPDIR": str(logs.parent)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, preexec_fn=heed_interruption) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"third\n"
        with (logs / "ts_log.log").open("a") as log:
            log.write("fourth\n")
        assert process.stdout.readline() == b"fourth\n"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_lines_around_a_rotation_are_all_seen(tail: Tail, logs: Path) -> None:
    log = logs / "ts_log.log"
    with log.open("a") as old:
        old.write("last of the old\n")
    log.rename(logs / "ts_log.log.1")
    log.write_text("first of the new\n")
    assert tail.new() == b"last of the old\nfirst of the new\n"
    assert tail.new() == b""


def test_file_that_is_between_two_is_waited_for(tail: Tail, logs: Path) -> None:
    (logs / "ts_log.log").unlink()
    assert tail.new() == b""
    (logs / "ts_log.log").write_text("new\n")
    assert tail.new() == b"new\n"


def test_file_that_was_emptied_is_read_from_its_beginning(tail: Tail, logs: Path) -> None:
    (logs / "ts_log.log").write_text("new\n")
    assert tail.new() == b"new\n"
