"""The manifests in kubernetes/: each fits the schemas of its cluster, and they agree with one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.manifests.schemas import ROOT, documents, problems
from torchserve_lite import __version__

_FILES = sorted((ROOT / "kubernetes" / "kserve").glob("*.yaml"))


def _only(name: str) -> dict[str, Any]:
    (document,) = documents((ROOT / "kubernetes" / "kserve" / name).read_text())
    return document


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_manifest_fits_its_schema(file: Path) -> None:
    manifests = documents(file.read_text())
    assert manifests
    assert [problem for manifest in manifests for problem in problems(manifest)] == []


def test_schema_does_not_let_a_misspelt_field_pass() -> None:
    runtime = _only("servingruntime.yaml")
    runtime["spec"]["protocolVersion"] = runtime["spec"].pop("protocolVersions")
    assert problems(runtime)


def test_both_runtimes_are_the_same() -> None:
    cluster, namespaced = _only("clusterservingruntime.yaml"), _only("servingruntime.yaml")
    assert cluster["spec"] == namespaced["spec"]
    assert cluster["metadata"] == namespaced["metadata"]


def test_runtime_starts_the_image_of_this_version_as_kserves_own_runtime_does() -> None:
    (container,) = _only("clusterservingruntime.yaml")["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["image"].endswith(f"/torchserve-lite:{__version__}")
    assert container["args"][:2] == ["torchserve", "--start"]
