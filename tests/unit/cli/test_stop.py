"""Stopping a server that the pid file names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from torchserve_lite.cli import main, torchserve
from torchserve_lite.cli.stop import finish

_OBEDIENT = "print(flush=True); import signal; signal.pause()"
_STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_OBEDIENT}"

Serve = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # Of the processes of this machine, those that the test has started: others may be servers of somebody's.
    monkeypatch.setattr(psutil, "process_iter", lambda: psutil.Process().children())
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    processes = []

    def start(script: str, *, registered: bool = True, command: str = "start") -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", script, "torchserve-lite", command], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # it has set up its signals
        if registered:
            (folder / ".model_server.pid").write_text(str(process.pid))
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_stop_ends_the_server_and_its_pid_file(serve: Serve, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(_OBEDIENT)
    assert main(["stop"]) == 0
    assert server.wait() == -signal.SIGTERM
    assert not (folder / ".model_server.pid").exists()
    assert capsys.readouterr().out.endswith("The server has stopped.\n")


def test_stop_without_a_server_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop"]) == 0
    assert capsys.readouterr().out == "No server is running.\n"


def test_server_without_a_pid_file_is_told_of_and_goes_on(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """``stop`` said that no server was running."""
    server = serve(_OBEDIENT, registered=False)
    assert (main(["stop"]), torchserve(["--stop"])) == (1, 0)  # the original has no other code for it
    shown = capsys.readouterr()
    assert shown.err.count(f"  pid {server.pid}: torchserve-lite start (in {Path.cwd()})\n") == 2
    assert "Stop one with: torchserve-lite stop --pid PID\n" in shown.err
    assert not shown.out
    assert server.poll() is None


def test_server_of_another_user_is_told_of_and_is_no_failure(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stop`` said that no server was running."""
    server = serve(_OBEDIENT, registered=False)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    assert main(["stop"]) == 0
    shown = capsys.readouterr()
    user = psutil.Process(server.pid).username()
    assert f"  pid {server.pid}: torchserve-lite start (of the user {user})\n" in shown.err
    assert "Their users can stop them." in shown.err
    assert not shown.out


def test_command_that_does_not_serve_is_no_server(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(_OBEDIENT, registered=False, command="models")
    assert main(["stop"]) == 0
    assert capsys.readouterr().out == "No server is running.\n"


def test_stop_ends_the_server_of_a_pid_and_leaves_the_others_pid_file(serve: Serve, folder: Path) -> None:
    serve(_OBEDIENT)
    server = serve(_OBEDIENT, registered=False)
    assert main(["stop", "--pid", str(server.pid)]) == 0
    assert server.wait() == -signal.SIGTERM
    assert (folder / ".model_server.pid").exists()


def test_stop_ends_no_process_that_is_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "--pid", str(os.getppid())]) == 1
    assert "is no server that runs" in capsys.readouterr().err


def test_stop_says_when_the_server_takes_too_long(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(_STUBBORN)
    assert finish(psutil.Process(server.pid), "gone", patience=0.01) == 1
    assert f"still finishing after 0.01 s. Wait for it, or end it at once with: kill -9 {server.pid}" in (
        capsys.readouterr().err
    )


def test_stop_works_where_there_are_no_pidfds(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    without = {name: value for name, value in vars(os).items() if name != "pidfd_open"}
    monkeypatch.setattr("torchserve_lite.cli.stop.os", SimpleNamespace(**without))  # psutil keeps its own
    server = serve(_OBEDIENT)
    assert finish(psutil.Process(server.pid), "gone") == 0
    assert finish(psutil.Process(serve(_STUBBORN).pid), "gone", patience=0.01) == 1


def test_torchserve_stop_says_and_removes_what_the_original_does(
    serve: Serve, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(_OBEDIENT)
    (folder / "key_file.json").touch()
    assert torchserve(["--stop"]) == 0
    assert capsys.readouterr().out == "TorchServe has stopped.\n"
    assert not list(folder.iterdir())


def test_torchserve_stop_without_a_server_is_fine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "key_file.json").touch()
    assert torchserve(["--stop", "--foreground"]) == 0
    assert capsys.readouterr().out == "TorchServe is not currently running.\n"
    assert (folder / "key_file.json").exists()


@pytest.mark.parametrize("argv", [["--start"], ["--foreground"], []], ids=["start", "foreground", "nothing"])
def test_torchserve_refuses_a_second_server(serve: Serve, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    serve(_OBEDIENT)
    assert torchserve(argv) == 1
    message = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert capsys.readouterr().out == message


def test_background_start_refuses_a_second_server(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(_OBEDIENT)
    assert main(["start", "--background"]) == 1
    assert f"A server is already running (pid {server.pid})" in capsys.readouterr().err
