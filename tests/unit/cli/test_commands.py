"""The commands as such: what they import, print and return."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from torchserve_lite import __version__
from torchserve_lite.cli import main, torchserve
from torchserve_lite.cli.commands import COMMANDS, reporting_errors
from torchserve_lite.errors import ConfigurationError


def _modules_after(statement: str) -> set[str]:
    script = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_package_imports_next_to_nothing() -> None:
    """Importing torch begins after it."""
    heavy = {"argparse", "asyncio", "json", "pathlib", "re"}
    assert not heavy & _modules_after("import torchserve_lite.cli")


def test_start_is_parsed_before_anything_heavy_is_imported() -> None:
    """Importing torch, the longest step of a start, has to wait for all that is imported here."""
    parsing = "from torchserve_lite.cli.commands import _parser; a = ['start']; _parser(a).parse_args(a)"
    heavy = {"aiohttp", "asyncio", "javaproperties", "numpy", "PIL", "psutil", "rich", "torch"}
    modules = _modules_after(parsing)
    assert not (heavy | {"torchserve_lite.cli.archive", "torchserve_lite.config.keys"}) & modules


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"torchserve-lite {__version__}\n"


@pytest.mark.parametrize("argv", [["dance"], ["start", "--dance"]], ids=["no command", "no flag"])
def test_misunderstood_command_line_gives_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "usage: torchserve-lite" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: torchserve-lite {command}" in capsys.readouterr().out


def test_our_errors_are_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ConfigurationError("mend this")

    assert reporting_errors("torchserve-lite", fail) == 1
    assert capsys.readouterr().err == "torchserve-lite: mend this\n"


def test_reader_that_has_seen_enough_is_no_error() -> None:
    """``torchserve-lite config | head`` ended in a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "torchserve_lite", "config"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


def test_torchserves_version_is_the_one_scripts_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert torchserve(["-v"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "TorchServe Version is 0.12.0",
        f"torchserve-lite {__version__}",
    ]


def test_torchserve_takes_one_action_at_most() -> None:
    with pytest.raises(SystemExit, match="2"):
        torchserve(["--start", "--stop"])
