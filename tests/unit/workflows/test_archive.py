"""Opening workflow archives: what is read, and what is refused without leaving anything behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.errors import InvalidDAG, InvalidWorkflow, WorkflowArchiveNotFound
from torchserve_lite.workflows.archive import WorkflowStore

from .wars import SPEC, war


@pytest.fixture
def store(tmp_path: Path) -> WorkflowStore:
    folder = tmp_path / "store"
    folder.mkdir()
    return WorkflowStore(folder=folder, scratch=tmp_path / "scratch")


def folder_of(store: WorkflowStore) -> Path:
    assert store.folder is not None
    return store.folder


def unpacked(store: WorkflowStore) -> list[str]:
    folder = store.scratch / "workflows"
    return os.listdir(folder) if folder.exists() else []


def test_archive_is_opened_by_its_name(store: WorkflowStore) -> None:
    war(folder_of(store))
    archive = store.open("w.war")
    assert (archive.name, archive.handler, list(archive.spec.nodes)) == ("w", "h.py", ["pre", "m"])


def test_function_is_an_archive_of_the_workflows_folder(store: WorkflowStore) -> None:
    war(folder_of(store))
    archive = store.open("w.war")
    function = archive.function("pre")
    assert (function.url, function.path, function.manifest.handler) == ("", archive.path, "h.py:pre")
    assert function.manifest.model_version == "1.0"
    function.close()
    assert (archive.path / "h.py").is_file()


def test_closed_archive_leaves_nothing(store: WorkflowStore) -> None:
    war(folder_of(store))
    store.open("w.war").close()
    assert unpacked(store) == []


@pytest.mark.parametrize(
    "url", ["x.war", "", "../w.war", "..", "http://127.0.0.1/w.war", "file:///w.war", "a\0b", "x" * 300]
)
def test_archive_that_is_not_in_the_store_is_not_found(store: WorkflowStore, url: str) -> None:
    war(folder_of(store))
    with pytest.raises(WorkflowArchiveNotFound, match="Workflow not found in workflow store: "):
        store.open(url)


def test_only_the_last_part_of_a_path_counts(store: WorkflowStore) -> None:
    war(folder_of(store))
    assert store.open("/any/where/w.war").name == "w"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param({"manifest": {}}, "no object named workflow", id="no workflow"),
        pytest.param({"manifest": {"workflow": {"workflowName": 7}}}, "workflowName must be a string", id="name"),
        pytest.param({"manifest": {"workflow": {"workflowName": "a/b"}}}, "slashes", id="slash in the name"),
        pytest.param({"manifest": {"workflow": {"workflowName": "w"}}}, "no specFile", id="no spec"),
        pytest.param({"manifest": {"workflow": {"specFile": "no.yaml"}}}, "does not hold", id="spec is not there"),
        pytest.param({"manifest": {"workflow": {"specFile": "../../s.yaml"}}}, "specFile", id="spec outside"),
        pytest.param({"manifest": {"workflow": {"specFile": "/etc/passwd"}}}, "specFile", id="absolute spec"),
        pytest.param(
            {"manifest": {"workflow": {"specFile": "workflow.yaml", "handler": "no.py"}}}, "no.py", id="handler"
        ),
        pytest.param({"spec": "dag: ["}, "workflow.yaml is not valid YAML", id="spec is no YAML"),
        pytest.param({"handler": "def pre("}, "h.py line 1", id="handler is no Python"),
        pytest.param({"files": {"../evil": "x"}}, "evil", id="entry outside"),
    ],
)
def test_archive_that_cannot_be_used_names_itself_and_says_why(
    store: WorkflowStore, facts: dict[str, Any], said: str
) -> None:
    war(folder_of(store), **facts)
    with pytest.raises(InvalidWorkflow, match=f"w.war: .*{said}"):
        store.open("w.war")
    assert unpacked(store) == []


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4" + bytes(100)])
def test_file_that_is_no_archive_is_refused(store: WorkflowStore, content: bytes) -> None:
    (folder_of(store) / "w.war").write_bytes(content)
    with pytest.raises(InvalidWorkflow, match=r"w\.war: "):
        store.open("w.war")
    assert unpacked(store) == []


def test_model_archive_is_no_workflow(store: WorkflowStore) -> None:
    import zipfile

    with zipfile.ZipFile(folder_of(store) / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
    with pytest.raises(InvalidWorkflow, match=r"no WAR-INF/MANIFEST\.json"):
        store.open("m.mar")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(
            {"spec": "dag: {other: }"}, r"other is neither under models nor a function in h\.py", id="unknown"
        ),
        pytest.param({"handler": None}, "pre is not under models, and the archive has no handler", id="no handler"),
        pytest.param({"handler": "class pre: pass"}, "pre is neither", id="a class"),
        pytest.param({"spec": SPEC.replace("[m]", "[m, pre]")}, "itself", id="self loop"),
    ],
)
def test_node_that_nobody_could_run_is_refused(store: WorkflowStore, facts: dict[str, Any], said: str) -> None:
    war(folder_of(store), **facts)
    with pytest.raises(InvalidDAG, match=said):
        store.open("w.war")
    assert unpacked(store) == []


@pytest.mark.parametrize(
    "code", ["async def pre(d, c): ...", "from x import pre", "pre = lambda d, c: d", "from x import *"]
)
def test_function_may_be_made_in_any_way(store: WorkflowStore, code: str) -> None:
    war(folder_of(store), handler=code)
    assert store.open("w.war").handler == "h.py"
