"""The commands archive, inspect and init, and the drop-in torch-model-archiver, as a user calls them."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.workflows.wars import war
from torchserve_lite.archive import builder
from torchserve_lite.cli import archive as archive_command
from torchserve_lite.cli import init as init_command
from torchserve_lite.cli import inspect as inspect_command
from torchserve_lite.cli import torch_model_archiver
from torchserve_lite.errors import ArchiveNotFound, BadRequest, Conflict, InvalidArchive, InvalidDAG

Output = pytest.CaptureFixture[str]

MNIST = ["--model-name", "mnist", "--version", "1.0", "--handler", "handler.py"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("handler.py").write_text("def handle(data, context):\n    return data\n")
    return tmp_path


def command(module: object, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return int(module.run(parser.parse_args(arguments)))  # type: ignore[attr-defined]


def test_archive_is_written_here_and_named(capsys: Output) -> None:
    assert command(archive_command, *MNIST) == 0
    assert capsys.readouterr().out == "Wrote mnist.mar\n"
    assert Path("mnist.mar").is_file()


def test_torch_model_archiver_is_silent_as_the_original(capsys: Output) -> None:
    assert torch_model_archiver([*MNIST, "--archive-format", "tgz"]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("mnist.tar.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "ERROR - mnist.mar already exists.\nPlease specify --force/-f option", id="exists"),
        pytest.param(
            ["-f", "--serialized-file", "no.pt"], "ERROR - --serialized-file: there is no file no.pt", id="file"
        ),
        pytest.param(["-f", "--extra-files", "no"], "ERROR - --extra-files: File does not exist: no", id="extra"),
        pytest.param(["-f", "--export-path", "no"], "ERROR - Given export-path no is not a directory.", id="folder"),
    ],
)
def test_torch_model_archiver_fails_with_the_reason(arguments: list[str], message: str, capsys: Output) -> None:
    Path("mnist.mar").touch()

    assert torch_model_archiver([*MNIST, *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["--model-name", "--version", "--handler"])
def test_missing_flag_is_a_fault_of_usage(missing: str, capsys: Output) -> None:
    at = MNIST.index(missing)
    with pytest.raises(SystemExit) as stop:
        torch_model_archiver(MNIST[:at] + MNIST[at + 2 :])
    assert stop.value.code == 2
    assert missing in capsys.readouterr().err


def test_archive_command_leaves_errors_to_the_program(capsys: Output) -> None:
    Path("mnist.mar").touch()
    with pytest.raises(Conflict):
        command(archive_command, *MNIST)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("large", "shown"), [(1, True), (2**40, False)], ids=["large", "small"])
def test_progress_bar_shows_for_large_archives_on_a_terminal(
    large: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(archive_command, "_LARGE", large)

    assert torch_model_archiver(MNIST) == 0
    assert ("Packing mnist.mar" in terminal.getvalue()) is shown


def test_file_that_cannot_be_written_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder, "_copy", full)
    assert torch_model_archiver(MNIST) == 1
    assert "mnist.mar cannot be written: [Errno 28] No space left" in capsys.readouterr().err
    assert os.listdir() == ["handler.py"]


def test_inspect_shows_what_is_in_an_archive(capsys: Output) -> None:
    torch_model_archiver(MNIST)

    assert command(inspect_command, "mnist.mar") == 0
    shown = capsys.readouterr().out
    for text in (
        "model.modelName: mnist",
        "  handler.py",
        "function handle in handler.py",
        "No problems were found",
    ):
        assert text in shown


def test_inspect_exits_with_one_when_something_will_not_work(capsys: Output) -> None:
    Path("handler.py").write_text("import no_such_package\ndef handle(data, context): pass\n")
    torch_model_archiver(MNIST)

    assert command(inspect_command, "mnist.mar") == 1
    assert "imports what is not installed here: no_such_package" in capsys.readouterr().out


def test_inspect_speaks_json(capsys: Output) -> None:
    torch_model_archiver(MNIST)
    command(inspect_command, "mnist.mar", "--json")

    told = json.loads(capsys.readouterr().out)
    assert told["manifest"]["model"]["modelName"] == "mnist"
    assert told["entry_point"] == "function handle in handler.py"
    assert set(told["entries"]) == {"handler.py", "MAR-INF/MANIFEST.json"}
    assert len(told["sha256"]) == 64


def test_inspect_takes_a_folder_and_leaves_it_alone(capsys: Output) -> None:
    torch_model_archiver([*MNIST, "--archive-format", "no-archive"])

    assert command(inspect_command, "mnist") == 0
    assert sorted(os.listdir("mnist")) == ["MAR-INF", "handler.py"]


@pytest.mark.parametrize("file", ["w.war", "by another name"])
def test_inspect_shows_the_nodes_of_a_workflow(file: str, capsys: Output) -> None:
    """It was told that it is no archive of a model."""
    war(Path(), spec="models: {m: {url: m.mar, batch-size: 4}, spare: {url: s.mar}}\ndag: {pre: [m]}\n")
    Path("w.war").rename(file)
    assert command(inspect_command, file) == 0
    shown = capsys.readouterr().out
    for text in (
        "workflow.workflowName: w",
        "nodes.pre.function: pre in h.py",
        "nodes.m.model: m.mar",
        "nodes.m.batch-size: 4",
        "dag.pre: m",
        "spare stands under models and not in the dag",
        "the node m needs m.mar in the model store",
        "No problems were found",
    ):
        assert text in shown
    command(inspect_command, file, "--json")
    assert json.loads(capsys.readouterr().out)["config"]["nodes"]["m"]["model"] == "m.mar"


def test_inspect_of_a_workflow_says_what_will_not_work(capsys: Output) -> None:
    war(Path(), handler="import no_such_package\ndef pre(data, context): pass\n")
    Path("m.mar").touch()
    assert command(inspect_command, "w.war") == 1
    shown = capsys.readouterr().out
    assert "imports what is not installed here: no_such_package" in shown
    assert "in the model store" not in shown
    war(Path(), spec="dag: {a: [b], b: [a]}\n")
    with pytest.raises(InvalidDAG, match="cycle"):
        command(inspect_command, "w.war")


def test_inspect_of_rubbish_names_the_file() -> None:
    Path("bad.mar").write_text("rubbish")
    with pytest.raises(InvalidArchive, match=r"^bad\.mar: is neither a zip"):
        command(inspect_command, "bad.mar")
    with pytest.raises(ArchiveNotFound, match=r"There is no archive absent\.mar"):
        command(inspect_command, "absent.mar")


def test_inspect_does_not_let_an_archive_write_to_the_terminal(capsys: Output) -> None:
    Path("config.yaml").write_text('title: "\\e]0;gotcha\\a"\n')
    torch_model_archiver([*MNIST, "--config-file", "config.yaml"])
    command(inspect_command, "mnist.mar")

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"title: \x1b]0;gotcha\x07" in shown


def test_project_can_be_tested_and_packed_as_it_is(here: Path, capsys: Output) -> None:
    assert command(init_command, "my-model") == 0

    test = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd="my-model", capture_output=True, text=True)
    assert test.returncode == 0, test.stdout
    os.chdir("my-model")
    arguments = ["--model-name", "my-model", "--version", "1.0", "--handler", "handler.py", "-c", "model-config.yaml"]
    assert torch_model_archiver(arguments) == 0
    assert command(inspect_command, "my-model.mar") == 0
    assert "class MyModelHandler in handler.py" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "handler"), [("a", "AHandler"), ("7b.chat", "Model7bChatHandler")])
def test_class_of_a_project_is_named_after_the_model(name: str, handler: str, here: Path) -> None:
    folder = init_command.write_project(name, here)
    compile((folder / "handler.py").read_text(), "handler.py", "exec")
    assert f"class {handler}(" in (folder / "handler.py").read_text()


def test_project_never_overwrites(here: Path) -> None:
    (here / "taken").mkdir()
    with pytest.raises(Conflict, match="taken already exists"):
        init_command.write_project("taken", here)
    with pytest.raises(BadRequest, match="special characters"):
        init_command.write_project("../up", here)
