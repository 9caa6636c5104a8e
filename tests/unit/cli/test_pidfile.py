"""The pid file names a server of ours, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_lite.cli.pidfile import named_in, registered, running_server
from torchserve_lite.errors import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".model_server.pid"


def _process(*arguments: str) -> subprocess.Popen[bytes]:
    """Waits for the end of its standard input."""
    return subprocess.Popen([sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE)


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    with _process("/usr/local/bin/torchserve-lite", "start") as process:
        yield process
        process.kill()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with _process("report.py", "torchserve-notes.txt") as process:
        yield process
        process.kill()


def test_running_server_is_found(file: Path, server: subprocess.Popen[bytes]) -> None:
    file.write_text(str(server.pid))
    found = running_server(file)
    assert found is not None
    assert found.pid == server.pid


def test_no_file_means_no_server(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert running_server(file) is None
    assert capsys.readouterr().out == ""


def test_file_of_another_program_is_removed(
    file: Path, stranger: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(str(stranger.pid))
    assert running_server(file) is None
    assert not file.exists()
    assert capsys.readouterr().out == "Removing orphan pid file.\n"


def test_file_of_a_dead_server_nobody_collected_is_removed(file: Path, server: subprocess.Popen[bytes]) -> None:
    """In a container without an init the server stays a zombie after its end."""
    server.kill()
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    file.write_text(str(server.pid))
    assert running_server(file) is None


def test_file_with_our_own_number_is_stale(
    file: Path, server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart of a container, we may have the number that the server before us had."""
    monkeypatch.setattr(os, "getpid", lambda: server.pid)
    file.write_text(str(server.pid))
    assert running_server(file) is None


@pytest.mark.parametrize("content", ["", "-1", "0", "pid 7", "99999999999"])
def test_file_with_nonsense_is_removed(file: Path, content: str) -> None:
    file.write_text(content)
    assert running_server(file) is None
    assert not file.exists()


def test_registration_holds_while_entered(file: Path) -> None:
    with registered(file) as notices:
        assert file.read_text() == f"{os.getpid()}\n"
        assert notices == ()
    assert not file.exists()


def test_registration_leaves_another_servers_file_alone(file: Path, server: subprocess.Popen[bytes]) -> None:
    file.write_text(str(server.pid))
    with registered(file) as notices:
        assert f"Another server (pid {server.pid}) is registered" in notices[0]
    assert file.read_text() == str(server.pid)


def test_registration_that_cannot_be_written_is_a_notice(tmp_path: Path) -> None:
    with registered(tmp_path / "nowhere" / "pid") as notices:
        assert "cannot be written (No such file or directory)" in notices[0]


def test_registration_does_not_write_through_a_link(file: Path, tmp_path: Path) -> None:
    """The temporary folder is shared: somebody else may have put a link there."""
    target = tmp_path / "precious"
    file.symlink_to(target)
    with registered(file) as notices:
        assert "cannot be written" in notices[0]
    assert not target.exists()


def test_file_that_is_older_than_the_process_it_names_is_removed(
    file: Path, server: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another server may have got the number of the one that wrote the file and was killed."""
    file.write_text(str(server.pid))
    os.utime(file, (1, 1))
    assert running_server(file) is None
    assert not file.exists()


def test_named_file_holds_the_number_while_entered(file: Path) -> None:
    with named_in(file):
        assert file.read_text() == f"{os.getpid()}\n"
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert not file.exists()


def test_named_file_replaces_a_stale_one_and_follows_no_link(file: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    file.symlink_to(precious)
    with named_in(file):
        assert file.read_text() == f"{os.getpid()}\n"
    assert precious.read_text() == "kept"


def test_named_file_of_a_server_that_runs_is_an_error(file: Path, server: subprocess.Popen[bytes]) -> None:
    file.write_text(str(server.pid))
    with pytest.raises(ConfigurationError, match=str(server.pid)), named_in(file):
        pass
    assert file.read_text() == str(server.pid)


def test_named_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"), named_in(tmp_path / "nowhere" / "pid"):
        pass
