"""Manifests that the command writes for a user's model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.server import write_archive
from tests.unit.manifests.schemas import ROOT, documents, problems
from torchserve_lite.cli.commands import run_command
from torchserve_lite.config.loading import load_config

_HANDLER = "def handle(data, context):\n    return data\n"


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path, "mnist.mar", "mnist_kf", "1.0", _HANDLER)


def _run(*arguments: str) -> int:
    return run_command(["kserve", "manifest", "mnist.mar", "--storage-uri", "pvc://model-pv-claim", *arguments])


@pytest.mark.parametrize("flags", [[], ["--protocol", "grpc-v2", "--mode", "Standard"], ["--gpus", "1", "--name", "a"]])
def test_manifests_fit_the_schemas(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*flags) == 0
    printed = documents(capsys.readouterr().out)
    assert [manifest["kind"] for manifest in printed] == ["ServingRuntime", "InferenceService", "PodDisruptionBudget"]
    assert [problem for manifest in printed for problem in problems(manifest)] == []


def test_runtime_is_that_of_the_folder_but_for_being_picked_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    _run()
    runtime, service, _ = documents(capsys.readouterr().out)
    folders = yaml.safe_load((ROOT / "kubernetes/kserve/servingruntime.yaml").read_text())
    folders["spec"]["supportedModelFormats"] = runtime["spec"]["supportedModelFormats"]
    assert runtime["spec"] == folders["spec"]
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]


def test_name_that_kubernetes_does_not_take_becomes_one_that_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    _run()
    assert documents(capsys.readouterr().out)[1]["metadata"]["name"] == "mnist-kf"
    assert _run("--name", "007") == 1
    assert "--name" in capsys.readouterr().err


def test_layout_is_what_the_storage_has_to_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--layout", "storage") == 0
    config = load_config(tmp_path / "storage/config/config.properties", {}, {"PROTOCOL_VERSION": "v1"})
    assert [model.url for model in config.models.startup] == ["mnist.mar"]
    assert config.notices == ()
    assert (tmp_path / "storage/model-store/mnist.mar").read_bytes() == (tmp_path / "mnist.mar").read_bytes()
    assert _run("--layout", "storage") == 1
    assert "not empty" in capsys.readouterr().err
