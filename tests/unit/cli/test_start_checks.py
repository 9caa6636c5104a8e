"""What a start cannot do without is told in one sentence, before anything is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from torchserve_lite.cli.start_checks import check_folders, temporary_folder
from torchserve_lite.errors import ConfigurationError

_COMMAND = Path(__file__).parent / "command_with_fake_server.py"
Prepare = Callable[[Path], object]


def _start(folder: Path, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if name not in ("LOG_LOCATION", "TS_CONFIG_FILE")}
    return subprocess.run(
        [sys.executable, str(_COMMAND), "torchserve-lite", "start", *flags],
        cwd=folder,
        env=own | {"FAKE_SERVER": "refuses", "TMPDIR": str(folder)} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _without_watchfiles(folder: Path) -> None:
    (folder / "watchfiles.py").write_text("raise ImportError")


@pytest.mark.parametrize(
    ("prepare", "flags", "environ", "sentence"),
    [
        pytest.param(
            _without_watchfiles,
            ["--watch", "--model-store=."],
            {"PYTHONPATH": "."},
            "--watch needs the package watchfiles: pip install 'torchserve-lite[watch]'.",
            id="watching without its package",
        ),
        pytest.param(
            lambda folder: None, ["--model-store=."], {"TMPDIR": "/nowhere"}, "TMPDIR=/nowhere is no", id="no TMPDIR"
        ),
        pytest.param(
            lambda folder: (folder / "file").touch(),
            ["--model-store=."],
            {"TMPDIR": "file"},
            "TMPDIR=file is not a folder",
            id="TMPDIR is a file",
        ),
        pytest.param(
            lambda folder: None,
            ["--model-store=."],
            {"LOG_LOCATION": "/proc/logs"},
            "LOG_LOCATION=/proc/logs cannot be written: No such file or directory.",
            id="logs on a file system that takes none",
        ),
        pytest.param(
            lambda folder: (folder / "file").touch(),
            ["--model-store=."],
            {"LOG_LOCATION": "file"},
            "LOG_LOCATION=file cannot be written: File exists.",
            id="logs where a file is",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text("model_store=nowhere"),
            ["--ts-config=c"],
            {},
            "nowhere (c) cannot be read: No such file or directory. Name a folder that exists",
            id="no store",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text("model_store=.\nworkflow_store=nowhere"),
            ["--ts-config=c"],
            {},
            "nowhere (c) cannot be read: No such file or directory. Name a folder that exists",
            id="no store of workflows",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text("enable_envvars_config=true\nmodel_store=."),
            ["--ts-config=c"],
            {"TS_MODEL_STORE": "nowhere"},
            "nowhere (environment, TS_MODEL_STORE) cannot be read: No such file or directory.",
            id="no store where the environment says it is",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text("model_store=c"),
            ["--ts-config=c"],
            {},
            "c (c) cannot be read: Not a directory.",
            id="store is a file",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text(f"model_store={'x' * 300}\nload_models=all"),
            ["--ts-config=c"],
            {},
            "(c) cannot be read: File name too long.",
            id="store with an impossible name",
        ),
        pytest.param(
            lambda folder: (folder / "config.properties").mkdir(),
            ["--model-store=."],
            {},
            "configuration file config.properties is a folder.",
            id="configuration is a folder",
        ),
        pytest.param(
            lambda folder: None,
            ["--model-store=.", "--ts-config=."],
            {},
            "--ts-config file . is a folder.",
            id="named configuration is a folder",
        ),
        pytest.param(
            lambda folder: (folder / "config.properties").symlink_to("nowhere"),
            ["--model-store=."],
            {},
            "configuration file not found: config.properties",
            id="configuration is a link to nothing",
        ),
        pytest.param(
            lambda folder: None,
            ["--model-store=."],
            {"TS_CONFIG_FILE": "x" * 300},
            "TS_CONFIG_FILE file not found: xxx",
            id="configuration with an impossible name",
        ),
        pytest.param(
            lambda folder: (folder / "c").write_text("python=/nowhere/python"),
            ["--model-store=.", "--ts-config=c"],
            {},
            "python=/nowhere/python (c) is not a program that can be run.",
            id="no such interpreter",
        ),
        pytest.param(
            lambda folder: (folder / ".model_server.pid").mkdir(),
            ["--model-store=.", "--background"],
            {},
            ".model_server.pid cannot be written (File exists)",
            id="pid file of a background server is a folder",
        ),
    ],
)
def test_start_fails_with_one_sentence(
    prepare: Prepare, flags: list[str], environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    result = _start(tmp_path, *flags, **environ)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert sentence in result.stderr
    assert "torchserve-lite 0" not in result.stdout  # the display of a start that goes on


def test_start_in_the_foreground_goes_on_without_a_pid_file(tmp_path: Path) -> None:
    (tmp_path / ".model_server.pid").mkdir()
    notice = ".model_server.pid cannot be written (File exists); the stop command will not find this server."
    assert notice in _start(tmp_path, "--model-store=.").stdout


@pytest.mark.parametrize("command", ["start --model-store=.", "start --background --model-store=.", "verify ."])
@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        pytest.param("ulimit -n 20", "Only 20 files and connections may be open at once", id="few files"),
        pytest.param("ulimit -n 8", "Only 8 files and connections may be open at once", id="fewer than a fork needs"),
    ],
)
def test_process_that_workers_are_forked_from_cannot_be_started(
    command: str, limit: str, sentence: str, tmp_path: Path
) -> None:
    assert sentence in _refusal(command, limit, tmp_path)


@pytest.mark.parametrize("command", ["start --model-store=.", "verify ."])
def test_few_files_before_the_limit_is_raised(command: str, tmp_path: Path) -> None:
    assert "cannot be started: Too many open files" in _refusal(command, "ulimit -Sn 5", tmp_path)


def _refusal(command: str, limit: str, tmp_path: Path) -> str:
    """The one sentence of a real server, which the fake server of the other tests does without."""
    result = subprocess.run(
        ["sh", "-c", f"{limit}; exec {sys.executable} -m torchserve_lite {command}"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "LOG_LOCATION": "logs"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    return result.stderr


def test_file_system_that_takes_nothing_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', ...]")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(ConfigurationError, match=r"No temporary folder can be written .*Set TMPDIR to one that can"):
        temporary_folder({})


def test_current_folder_that_has_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(ConfigurationError, match="The current folder no longer exists"):
        check_folders({})


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_command_without_standard_streams_has_others_in_their_place(closed: str, tmp_path: Path) -> None:
    """Else sockets would get their numbers, and what is printed would go to clients."""
    code = """
        import socket, sys
        from pathlib import Path
        from torchserve_lite.cli.commands import reporting_errors

        def run():
            with socket.socket() as opened:
                print("printed")
                print("printed", file=sys.stderr, flush=True)
                Path("result").write_text(str(opened.fileno() > 2))
            return 7

        sys.exit(reporting_errors("program", run))
    """
    command = f"{sys.executable} -c '{textwrap.dedent(code)}' {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, timeout=60).returncode == 7
    assert (tmp_path / "result").read_text() == "True"
