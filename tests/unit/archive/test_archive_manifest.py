"""MANIFEST.json: every field is read, every fault named with the file it is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.errors import InvalidArchive

from .hostile import with_manifest

MODEL = {"modelName": "mnist", "handler": "mnist_handler.py"}


def read(manifest: Any, folder: Path) -> Manifest:
    (folder / "MAR-INF").mkdir()
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "MAR-INF/MANIFEST.json").write_bytes(text)
    return Manifest.read(folder, "mnist.mar")


def fault(manifest: Any, folder: Path) -> str:
    with pytest.raises(InvalidArchive) as refusal:
        read(manifest, folder)
    assert str(refusal.value).startswith("mnist.mar: MAR-INF/MANIFEST.json: ")
    return str(refusal.value)


def test_every_field_is_read(tmp_path: Path) -> None:
    files = {"serializedFile": "w.pt", "modelFile": "n.py", "requirementsFile": "r.txt", "configFile": "c.yaml"}
    model = {**MODEL, **files, "modelVersion": "2.1", "sourceVocab": "v.pt"}
    raw = {"createdOn": "now", "runtime": "python3", "model": model, "archiverVersion": "0.12.0"}

    assert read(raw, tmp_path) == Manifest(
        model_name="mnist",
        model_version="2.1",
        handler="mnist_handler.py",
        runtime="python3",
        serialized_file="w.pt",
        model_file="n.py",
        requirements_file="r.txt",
        config_file="c.yaml",
        source_vocab="v.pt",
        created_on="now",
        archiver_version="0.12.0",
        raw=raw,
    )


def test_absent_fields_get_the_defaults_of_torchserve_and_a_warning(tmp_path: Path) -> None:
    manifest = read({"model": MODEL}, tmp_path)

    assert (manifest.runtime, manifest.model_version, manifest.serialized_file) == ("python", "1.0", "")
    assert manifest.warnings == ("its manifest has no createdOn or no archiverVersion",)


def test_archive_without_manifest_gets_the_default_one(tmp_path: Path) -> None:
    manifest = Manifest.read(tmp_path, "mnist.mar")

    assert manifest == Manifest.default()
    assert manifest.raw is None


@pytest.mark.parametrize(("version", "text"), [("3", "3"), (3, "3"), (1.5, "1.5")])
def test_version_is_always_text(version: object, text: str, tmp_path: Path) -> None:
    assert read({"model": {**MODEL, "modelVersion": version}}, tmp_path).model_version == text


@pytest.mark.parametrize(
    "path", [pytest.param("weights/model.pt", id="below"), pytest.param("./model.pt", id="with a dot")]
)
def test_file_may_lie_in_a_folder_of_the_archive(path: str, tmp_path: Path) -> None:
    """Manifests written by hand have this, and TorchServe joins it to the model's folder."""
    assert read({"model": {**MODEL, "serializedFile": path}}, tmp_path).serialized_file == path


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param({"runtime": "python"}, "Missing Model entry in manifest file.", id="no model"),
        pytest.param({"model": None}, "Missing Model entry in manifest file.", id="model is null"),
        pytest.param({"model": []}, "model must be an object, not a list", id="model is a list"),
        pytest.param({"model": {"modelVersion": ""}}, "Model version is not defined.", id="empty version"),
        pytest.param({"model": {"modelVersion": None}}, "Model version is not defined.", id="null version"),
        pytest.param({"model": {"modelVersion": True}}, "modelVersion must be a string", id="version is a boolean"),
        pytest.param(
            {"model": MODEL, "runtime": "ruby"}, "Runtime is not defined or invalid. It is 'ruby'", id="runtime"
        ),
        pytest.param({"model": MODEL, "runtime": None}, "Runtime is not defined or invalid.", id="null runtime"),
        pytest.param({"model": {"modelName": 7}}, "modelName must be a string, not a number", id="16 name is a number"),
        pytest.param({"model": {"modelName": ["a"]}}, "modelName must be a string, not a list", id="16 name is a list"),
        pytest.param({"model": {"modelName": "a/b"}}, "modelName 'a/b' may not contain slashes", id="slash in name"),
        pytest.param({"model": {"modelName": "a\nb"}}, "may not contain", id="line feed in name"),
        pytest.param({"model": {"modelName": "a" * 256}}, "longer than 255 characters", id="long name"),
        pytest.param({"model": {"serializedFile": "../w.pt"}}, "serializedFile '../w.pt' leads out", id="17 weights"),
        pytest.param({"model": {"serializedFile": "/w.pt"}}, "'/w.pt' is an absolute path", id="17 absolute weights"),
        pytest.param({"model": {"handler": "../h.py:fn"}}, "handler '../h.py' leads out", id="17 handler"),
        pytest.param({"model": {"handler": "/tmp/h.py"}}, "handler '/tmp/h.py' is an absolute", id="17 abs. handler"),
        pytest.param({"model": {"modelFile": "C:\\n.py"}}, "has a backslash", id="17 model file"),
        pytest.param({"model": {"configFile": "a/../../c"}}, "configFile 'a/../../c' leads out", id="17 config file"),
        pytest.param({"model": {"requirementsFile": "/r"}}, "'/r' is an absolute path", id="17 requirements"),
        pytest.param([], "must hold an object, not a list", id="list"),
        pytest.param(b'{"model": {}', "is not JSON: Expecting ',' delimiter at line 1, column 13", id="not JSON"),
        pytest.param(b'{"model": {}, "model": {}}', "has the key 'model' twice", id="16 duplicate keys"),
        pytest.param(b'{"model": {"a": 1, "a": 2}}', "has the key 'a' twice", id="16 duplicate keys below"),
        pytest.param(b'{"model": "\xff"}', "is not UTF-8 (byte 11)", id="16 not UTF-8"),
        pytest.param(b'"' + b"x" * 2**20, "is larger than 1,048,576 bytes", id="16 huge"),
        pytest.param(b"[" * 10**5, "is nested too deeply", id="16 deep"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "is not JSON: Exceeds the limit", id="16 long number"),
    ],
)
def test_manifest_is_refused_with_its_fault(manifest: Any, message: str, tmp_path: Path) -> None:
    assert message in fault(manifest, tmp_path)


def test_refused_manifest_leaves_nothing_unpacked(tmp_path: Path) -> None:
    with_manifest(tmp_path, "{}")
    store = ModelStore(folder=tmp_path, scratch=tmp_path / "scratch")

    with pytest.raises(InvalidArchive, match=r"^bad\.mar: MAR-INF/MANIFEST\.json: Missing Model entry"):
        store.open("bad.mar")
    assert list((tmp_path / "scratch/models").iterdir()) == []
