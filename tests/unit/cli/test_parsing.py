"""What the help shows, and what is said of words that are not known."""

from __future__ import annotations

import pytest

from torchserve_lite.archive.built_in_handlers import BUILT_IN_HANDLERS
from torchserve_lite.cli import main, torch_model_archiver, torchserve
from torchserve_lite.cli.commands import COMMANDS, GROUPS


def _refused(argv: list[str], capsys: pytest.CaptureFixture[str], run=main) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit, match="2"):
        run(argv)
    return capsys.readouterr().err


def test_help_is_shown_when_no_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    for title, commands in GROUPS.items():
        assert f"{title}:\n" in shown
        for name, purpose in commands.items():
            assert f"  {name:<18}{purpose}\n" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples_and_documentation(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"\nexamples:\n  torchserve-lite {command}" in shown
    assert "\nDocumentation: docs/command-line.md#" in shown


def test_command_that_was_meant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no command strat. Did you mean start?" in _refused(["strat"], capsys)


def test_nothing_is_suggested_when_nothing_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean" not in _refused(["dance"], capsys)


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        pytest.param(["start", "--modl-store", "x"], "--model-store", id="of a command"),
        pytest.param(["start", "--modl-store=x"], "--model-store", id="with its value"),
        pytest.param(["archive", "--model-nmae", "x"], "--model-name", id="in place of a required one"),
        pytest.param(["kserve", "manifest", "--storag-uri", "x"], "--storage-uri", id="of a command in a command"),
        pytest.param(["--versoin"], "--version", id="of no command"),
    ],
)
def test_flag_that_was_meant_is_named(argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Did you mean {meant}?" in _refused(argv, capsys)


def test_originals_commands_name_the_flag_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean --foreground?" in _refused(["--forground"], capsys, torchserve)
    assert "Did you mean --force?" in _refused(["--forec"], capsys, torch_model_archiver)


def test_words_too_many_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "torchserve-lite stop: nothing is known to do with: now" in _refused(["stop", "now"], capsys)


def test_key_of_the_configuration_that_was_meant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "job_queue_sise"]) == 1
    assert "Did you mean job_queue_size?" in capsys.readouterr().err


def test_default_handler_that_was_meant_is_named_and_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", "--model-name", "m", "--version", "1", "--handler", "image_clasifier"]) == 1
    shown = capsys.readouterr().err
    assert "Did you mean image_classifier?" in shown
    assert all(name in shown for name in BUILT_IN_HANDLERS)
