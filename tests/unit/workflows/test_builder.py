"""Workflow archives we build are those of torch-workflow-archiver 0.2.15, which wrote what is pinned here."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from torchserve_lite.cli import main, torch_workflow_archiver
from torchserve_lite.workflows.archive import WorkflowStore

from .wars import HANDLER, SPEC

Output = pytest.CaptureFixture[str]

FLAGS = ["--workflow-name", "wfa", "--spec-file", "src/workflow.yaml", "--handler", "src/h.py"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("src").mkdir()
    Path("src/workflow.yaml").write_text(SPEC)
    Path("src/h.py").write_text(HANDLER)
    Path("src/extra.txt").write_text("x")
    return tmp_path


def test_archive_has_the_originals_entries_and_manifest() -> None:
    assert torch_workflow_archiver([*FLAGS, "--extra-files", "src/extra.txt"]) == 0
    with zipfile.ZipFile("wfa.war") as archive:
        assert set(archive.namelist()) == {"workflow.yaml", "h.py", "extra.txt", "WAR-INF/MANIFEST.json"}
        text = archive.read("WAR-INF/MANIFEST.json").decode()
    created = json.loads(text)["createdOn"]
    assert re.fullmatch(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", created)
    assert text == (
        f'{{\n  "createdOn": "{created}",\n  "workflow": {{\n    "workflowName": "wfa",\n'
        '    "specFile": "workflow.yaml",\n    "handler": "h.py"\n  },\n  "archiverVersion": "0.2.15"\n}'
    )


def test_archive_opens_in_our_store(here: Path) -> None:
    assert torch_workflow_archiver(FLAGS) == 0
    assert WorkflowStore(folder=here, scratch=here / "scratch").open("wfa.war").name == "wfa"


def test_command_names_what_it_wrote(capsys: Output) -> None:
    assert main(["workflow-archive", *FLAGS]) == 0
    assert capsys.readouterr().out == "Wrote wfa.war\n"


def test_archive_that_is_there_is_replaced_only_by_force(capsys: Output) -> None:
    Path("wfa.war").write_text("old")
    assert torch_workflow_archiver(FLAGS) == 1
    assert "ERROR - wfa.war already exists." in capsys.readouterr().err
    assert Path("wfa.war").read_text() == "old"
    assert torch_workflow_archiver([*FLAGS, "-f"]) == 0
    assert zipfile.is_zipfile("wfa.war")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(["--workflow-name", "w/f"], "Workflow name contains special characters", id="name"),
        pytest.param(["--export-path", "nowhere"], "nowhere is not a directory", id="export path"),
        pytest.param(["--spec-file", "no.yaml"], "--spec-file: there is no file no.yaml", id="spec"),
        pytest.param(
            ["--extra-files", "src/extra.txt, gone.txt"], "--extra-files: there is no file gone.txt", id="extra"
        ),
        pytest.param(["--extra-files", "src"], "src is a folder", id="folder"),
        pytest.param(["--handler", "src/extra.txt"], "pre is neither", id="functions"),
        pytest.param(["--handler", ""], "no handler", id="no handler"),
    ],
)
def test_what_could_not_be_registered_is_not_packed(flags: list[str], said: str, capsys: Output) -> None:
    assert torch_workflow_archiver([*FLAGS, *flags]) == 1
    assert said in capsys.readouterr().err
    assert not list(Path().glob("*.war"))
