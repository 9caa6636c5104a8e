"""Starting in the foreground and in the background, as processes, around a server that only pretends."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

_COMMAND = Path(__file__).parent / "command_with_fake_server.py"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.properties").write_text("model_store=.\ndisable_token_authorization=true")
    return tmp_path


def _popen(folder: Path, behaviour: str, *command: str, stdout: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(_COMMAND), *command],
        cwd=folder,
        env=os.environ | {"FAKE_SERVER": behaviour, "TMPDIR": str(folder)},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    """Runs a command to its end; a server it left in the background does not outlive the test."""

    def run_command(*command: str, behaviour: str = "serves") -> subprocess.CompletedProcess[str]:
        with open(folder / "output", "a+") as output:  # no pipe: a server in the background keeps it open
            process = subprocess.run(
                [sys.executable, str(_COMMAND), *command],
                cwd=folder,
                env=os.environ | {"FAKE_SERVER": behaviour, "TMPDIR": str(folder)},
                stdout=output,
                stderr=output,
                check=False,
            )
        return subprocess.CompletedProcess(command, process.returncode, (folder / "output").read_text())

    yield run_command
    run_command("torchserve", "--stop")


def _pid(folder: Path) -> int:
    return int((folder / ".model_server.pid").read_text())


def test_torchserve_start_returns_when_the_server_listens(run: Run, folder: Path) -> None:
    result = run("torchserve", "--start")
    assert result.returncode == 0
    assert f"The server runs in the background (pid {_pid(folder)})" in result.stdout
    assert "inference: http://127.0.0.1:1" in result.stdout
    assert os.getsid(_pid(folder)) == _pid(folder)


def test_torchserve_stop_ends_what_torchserve_start_began(run: Run, folder: Path) -> None:
    run("torchserve", "--start")
    server = psutil.Process(_pid(folder))
    assert run("torchserve", "--stop").stdout.endswith("TorchServe has stopped.\n")
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not (folder / ".model_server.pid").exists()


def test_torchserve_start_writes_the_servers_output_where_its_own_goes(run: Run) -> None:
    """`docker logs` shows it then, as with the original."""
    run("torchserve", "--start")
    assert "Model server started. 1 model ready after 1.00 s.\n" in run("torchserve", "--stop").stdout


def test_background_start_writes_the_servers_output_to_a_log(run: Run, folder: Path) -> None:
    result = run("torchserve-lite", "start", "--background")
    assert result.returncode == 0
    assert result.stdout.endswith("Its output goes to logs/torchserve-lite.log\n")
    run("torchserve-lite", "stop")
    assert "Model server started." in (folder / "logs" / "torchserve-lite.log").read_text()
    assert "Model server started." not in (folder / "output").read_text()


@pytest.mark.parametrize("command", [["torchserve"], ["torchserve-lite", "start", "--background"]])
def test_background_start_says_once_where_the_keys_are(run: Run, folder: Path, command: list[str]) -> None:
    (folder / "config.properties").write_text("model_store=.")
    assert run(*command).stdout.count(f"tokens: {folder / 'key_file.json'} holds the keys") == 1


@pytest.mark.parametrize(
    "command", [["torchserve"], ["torchserve-lite", "start", "--background"]], ids=["torchserve", "ours"]
)
def test_background_start_fails_with_the_servers_reason(run: Run, folder: Path, command: list[str]) -> None:
    result = run(*command, behaviour="refuses")
    assert result.returncode == 1
    assert "The server could not be started: inference_address=http://127.0.0.1:1 cannot be used" in result.stdout
    assert not (folder / ".model_server.pid").exists()


def test_background_server_that_fails_later_says_why_in_its_log(run: Run, folder: Path) -> None:
    """It ended with exit code 1 and without a word."""
    result = run("torchserve-lite", "start", "--background", behaviour="fails when it listens")
    assert result.returncode == 0
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(result.stdout.partition("(pid ")[2].partition(")")[0])).wait(60)
    assert "torchserve-lite: model_store=/gone cannot be read" in (folder / "logs/torchserve-lite.log").read_text()


def test_background_start_fails_with_the_exit_code_when_the_server_crashes(run: Run) -> None:
    result = run("torchserve-lite", "start", "--background", behaviour="crashes")
    assert result.returncode == 1
    assert "The server ended before it listened (exit code 3); see logs/torchserve-lite.log" in result.stdout


def test_background_start_fails_with_the_fault_of_the_configuration(run: Run, folder: Path) -> None:
    (folder / "config.properties").write_text("job_queue_size=ten")
    result = run("torchserve")
    assert result.returncode == 1
    assert "job_queue_size=ten (config.properties): expected a whole number" in result.stdout


def test_background_start_fails_when_its_log_cannot_be_written(run: Run, folder: Path) -> None:
    (folder / "logs").touch()
    result = run("torchserve-lite", "start", "--background")
    assert result.returncode == 1
    assert "logs/torchserve-lite.log cannot be written" in result.stdout


@pytest.mark.parametrize(
    "command", [["torchserve", "--foreground"], ["torchserve-lite", "start"]], ids=["torchserve", "ours"]
)
def test_foreground_start_serves_until_a_signal(folder: Path, command: list[str]) -> None:
    with _popen(folder, "serves", *command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        assert any("Model server started." in line for line in lines)
        assert _pid(folder) == server.pid
        server.terminate()
        assert "Stopping" in next(lines)
        assert server.wait() == 0
    assert not (folder / ".model_server.pid").exists()


def test_foreground_start_preloads_before_it_reads_the_configuration(run: Run, folder: Path) -> None:
    (folder / "config.properties").write_text("job_queue_size=ten")
    assert "preloading" in run("torchserve-lite", "start").stdout


def test_foreground_start_fails_with_the_servers_reason(run: Run) -> None:
    result = run("torchserve-lite", "start", behaviour="refuses")
    assert result.returncode == 1
    assert result.stdout.endswith("torchserve-lite: inference_address=http://127.0.0.1:1 cannot be used: taken\n")


def test_second_server_in_the_foreground_runs_without_the_pid_file(run: Run, folder: Path) -> None:
    run("torchserve", "--start")
    first = _pid(folder)
    result = run("torchserve-lite", "start", behaviour="refuses")
    assert f"warning: Another server (pid {first}) is registered" in result.stdout
    assert _pid(folder) == first


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["--quiet"], False)], ids=["plain", "quiet"])
def test_quiet_start_shows_of_log_lines_what_is_wrong(run: Run, folder: Path, flags: list[str], shown: bool) -> None:
    run("torchserve-lite", "start", "--background", *flags)
    run("torchserve-lite", "stop")
    log = (folder / "logs" / "torchserve-lite.log").read_text()
    assert ("a line of no weight" in log) is shown
    assert "a warning" in log


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["-v"], True)], ids=["plain", "verbose"])
def test_verbose_start_shows_every_log_line_on_a_terminal(folder: Path, flags: list[str], shown: bool) -> None:
    terminal, its_end = pty.openpty()
    server = _popen(folder, "serves", "torchserve-lite", "start", *flags, stdout=its_end)
    os.close(its_end)
    output = ""
    with os.fdopen(terminal, errors="replace") as screen, suppress(OSError):  # EIO: the end of a terminal
        for line in screen:
            output += line
            if "Model server started" in line:
                server.terminate()
    server.communicate()
    assert ("a line of no weight" in output) is shown
    assert "a warning" in output
