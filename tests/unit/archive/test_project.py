"""The manifest that a handler project would have, read from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchserve_lite.archive.project import project_manifest
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.cli.init import write_project
from torchserve_lite.errors import InvalidArchive

HANDLE = "def handle(data, context):\n    return data\n"
NETWORK = "import torch\n\n\nclass Net(torch.nn.Module): ...\n"
HELPERS = "class Digits:\n    size = 28\n"


def _project(folder: Path, *files: str, **code: str) -> Path:
    for name in files:
        (folder / name).touch()
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_project_of_init_is_opened_as_an_archive(tmp_path: Path) -> None:
    write_project("words", tmp_path)
    with ModelStore(folder=tmp_path, scratch=tmp_path / "scratch", projects=True).open("words") as archive:
        assert (archive.manifest.model_name, archive.manifest.handler) == ("words", "handler.py")
        assert archive.config.options.batch_size == 8
        assert archive.path == tmp_path / "words"


def test_folder_is_no_project_unless_it_is_asked_for(tmp_path: Path) -> None:
    """In a store, a folder without a manifest waits for who registers it to say its handler."""
    write_project("words", tmp_path)
    with ModelStore(folder=tmp_path, scratch=tmp_path / "scratch").open("words") as archive:
        assert archive.manifest.handler == ""


@pytest.mark.parametrize(
    ("files", "code", "expected"),
    [
        pytest.param((), {"handler": "def handle("}, {"handler": "handler.py"}, id="one with a typo in it"),
        pytest.param((), {"mine": HANDLE, "train": HELPERS}, {"handler": "mine.py"}, id="another name"),
        pytest.param((), {"mine": HANDLE, "test_mine": HANDLE}, {"handler": "mine.py"}, id="tests are none"),
        pytest.param(
            ("requirements.txt", "model-config.yaml"),
            {"handler": HANDLE},
            {"handler": "handler.py", "requirementsFile": "requirements.txt", "configFile": "model-config.yaml"},
            id="requirements and config",
        ),
        pytest.param(
            ("a.onnx", "model.onnx"),
            {"handler": HANDLE},
            {"handler": "handler.py", "serializedFile": "model.onnx"},
            id="weights by name",
        ),
    ],
)
def test_files_say_what_a_manifest_would(
    files: tuple[str, ...], code: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    manifest = project_manifest(_project(tmp_path, *files, **code), "m")
    assert manifest["model"] == {"modelName": "m", "modelVersion": "1.0", **expected}


@pytest.mark.parametrize("name", ["model", "network"])
def test_state_dict_brings_the_file_of_its_network(name: str, tmp_path: Path) -> None:
    _project(tmp_path, handler=HANDLE, train=HELPERS, **{name: NETWORK})
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    model = project_manifest(tmp_path, "m")["model"]
    assert (model["serializedFile"], model["modelFile"]) == ("weights.pt", f"{name}.py")


@pytest.mark.parametrize(
    ("files", "code", "told"),
    [
        pytest.param((), {}, "has no handler", id="none"),
        pytest.param((), {"a": HANDLE, "b": HANDLE}, r"several files .* \(a.py, b.py\)", id="several"),
        pytest.param(("a.pt", "b.pt"), {"handler": HANDLE}, r"\(a.pt, b.pt\)", id="several weights"),
    ],
)
def test_what_files_leave_open_is_told(files: tuple[str, ...], code: dict[str, str], told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match=told):
        project_manifest(_project(tmp_path, *files, **code), "m")
