"""Who is heard about a setting that several places speak about: properties < models < YAML < snapshot or call.

Everything is said as a user says it, in a config.properties and a model-config.yaml, but for the call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive
from torchserve_lite.config.loading import load_config
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.management.specs import build_spec

_SOURCES = ("properties", "models", "yaml", "snapshot", "call")  # weakest first; the last two are equally strong
_VALUES = {"properties": 11, "models": 12, "yaml": 13, "snapshot": 14, "call": 15}
_SETTINGS = {
    # as files have it: the property of the server, the field of a call, and its unit in seconds where it is a time
    "batchSize": ("", "batch_size", None),
    "maxBatchDelay": ("", "batch_delay", 0.001),
    "responseTimeout": ("default_response_timeout", "response_timeout", 1.0),
    "startupTimeout": ("default_startup_timeout", "startup_timeout", 1.0),
    "minWorkers": ("default_workers_per_model", "min_workers", None),
    "maxWorkers": ("default_workers_per_model", "max_workers", None),
}


def _effective(setting: str, sources: tuple[str, ...], folder: Path) -> float:
    """What a version is served with when all these sources speak about the setting."""
    prop, field, unit = _SETTINGS[setting]
    properties = {"model_store": str(folder)}
    if "properties" in sources and prop:
        properties[prop] = str(_VALUES["properties"])
    if "models" in sources:
        properties["models"] = json.dumps({"m": {"1.0": {setting: _VALUES["models"]}}})
    if "snapshot" in sources:
        fields = {"marName": "m.mar", setting: _VALUES["snapshot"]}
        properties["model_snapshot"] = json.dumps({"models": {"m": {"1.0": fields}}})
    file = folder / "config.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    config = load_config(file, {}, {})
    yaml = ModelConfig.parse(f"{setting}: {_VALUES['yaml']}".encode() if "yaml" in sources else b"")
    wanted = config.models.startup[0] if config.models.startup else ServingOptions(url="m.mar")
    if "call" in sources:
        value: Any = _VALUES["call"] * (unit or 1)
        wanted = ServingOptions(url="m.mar", **{field: value})
    manifest = Manifest(model_name="m", model_version="1.0", handler="h.py")
    archive = Archive(url="m.mar", path=folder, scratch=folder, digest="", manifest=manifest, config=yaml)
    default_workers = config.workers.workers_per_model or 1
    spec = build_spec(archive, wanted, config.models.overrides.get(("m", "1.0")), config.workers, default_workers)
    return _as_files_have_it(setting, spec)


def _as_files_have_it(setting: str, spec: ModelSpec) -> float:
    found = {
        "batchSize": spec.batch.size,
        "maxBatchDelay": spec.batch.delay * 1000,
        "responseTimeout": spec.response_timeout,
        "startupTimeout": spec.startup_timeout,
        "minWorkers": spec.min_workers,
        "maxWorkers": spec.max_workers,
    }
    return found[setting]


@pytest.mark.parametrize(
    ("setting", "strongest"),
    [(name, source) for name, (prop, *_) in _SETTINGS.items() for source in _SOURCES if prop or source != "properties"],
)
def test_strongest_source_that_speaks_is_heard(setting: str, strongest: str, tmp_path: Path) -> None:
    sources = _SOURCES[: _SOURCES.index(strongest) + 1]
    assert _effective(setting, sources, tmp_path) == pytest.approx(_VALUES[strongest])


@pytest.mark.parametrize("only", _SOURCES[1:])
@pytest.mark.parametrize("setting", _SETTINGS)
def test_source_that_speaks_alone_is_heard(setting: str, only: str, tmp_path: Path) -> None:
    assert _effective(setting, (only,), tmp_path) == pytest.approx(_VALUES[only])


@pytest.mark.parametrize(("setting", "built_in"), [("batchSize", 1), ("maxBatchDelay", 100), ("responseTimeout", 120)])
def test_when_nobody_speaks_what_is_built_in_holds(setting: str, built_in: float, tmp_path: Path) -> None:
    assert _effective(setting, (), tmp_path) == pytest.approx(built_in)


def test_file_that_speaks_of_something_else_changes_nothing(tmp_path: Path) -> None:
    """TorchServe 0.12 pinned both timeouts to 120 s as soon as a model had any model-config.yaml."""
    file = tmp_path / "config.properties"
    file.write_text("default_response_timeout=11\n")
    workers = load_config(file, {}, {}).workers
    archive = Archive(
        url="m.mar",
        path=tmp_path,
        scratch=tmp_path,
        digest="",
        manifest=Manifest(model_name="m", model_version="1.0", handler="h.py"),
        config=ModelConfig.parse(b"batchSize: 4"),
    )
    assert build_spec(archive, ServingOptions(url="m.mar"), None, workers, 1).response_timeout == 11
