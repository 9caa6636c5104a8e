"""The scripts by which shells complete, run by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from torchserve_lite.cli import main
from torchserve_lite.cli.commands import COMMANDS


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    shell: str = request.param
    assert main(["completion", shell]) == 0
    (file := tmp_path / "script").write_text(capsys.readouterr().out)
    return file


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        pytest.param(["sta"], "start status", id="command"),
        pytest.param(["start", "--mod"], "--model-store --models", id="flag"),
        pytest.param(["start", "--log-level", ""], "debug info warning error", id="value"),
        pytest.param(["start", "--log-level", "w"], "warning", id="beginning of a value"),
        pytest.param(["logs", "a"], "access", id="word that stands for itself"),
        pytest.param(["kserve", "manifest", "--stor"], "--storage-uri", id="flag of a command in a command"),
        pytest.param(["inspect", "mod"], "", id="file, which bash knows"),
    ],
)
def test_bash_is_offered(script: Path, typed: list[str], offered: str) -> None:
    words = " ".join(f"'{word}'" for word in ["torchserve-lite", *typed])
    ask = f'source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _torchserve_lite; echo "${{COMPREPLY[*]}}"'
    result = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == offered


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_is_offered_commands_flags_and_values(script: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    for typed, offered in (("sta", {"start", "status"}), ("start --log-level ", {"debug", "info", "warning", "error"})):
        ask = f"source {script}; complete -C 'torchserve-lite {typed}'"
        result = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
        assert {line.split("\t")[0] for line in result.stdout.splitlines()} == offered


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_can_read_its_script(script: Path) -> None:
    assert all(f"'{name}:" in script.read_text() for name in COMMANDS)
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    subprocess.run(["zsh", "-n", str(script)], check=True)
