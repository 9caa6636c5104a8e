"""What is served is on the disk when a change is answered, whole at every moment, and served by the next start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.unit.management.test_manager import A, B, Managed, add_model, managed
from torchserve_lite.config.loading import load_config
from torchserve_lite.config.properties import read_properties
from torchserve_lite.config.settings import SnapshotConfig
from torchserve_lite.config.snapshots import last_snapshot, snapshot_files, snapshot_name
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.errors import LoadFailed, WorkerDied
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.management.snapshots import SnapshotFolder, Snapshots, saved_models

_ONE = {"m": {"1.0": {"marName": "m.mar"}}}


@asynccontextmanager
async def saving(folder: Path) -> AsyncIterator[Managed]:
    """A manager over models a and b that saves what it serves in ``folder/saved``."""
    async with managed(folder) as parts, _saving(parts, folder / "saved"):
        yield parts


@asynccontextmanager
async def _saving(parts: Managed, folder: Path) -> AsyncIterator[None]:
    config = SnapshotConfig(folder=folder, properties={"model_store": str(parts.folder)})
    async with Snapshots(config, parts.manager.registry, parts.engine, Shutdown()) as snapshots:
        parts.manager.changed.append(snapshots.changed)
        parts.manager.recorded = snapshots.written
        yield


def _kinds(folder: Path) -> list[str]:
    return [file.kind for file in reversed(snapshot_files(folder / "saved"))]


def _models(folder: Path) -> dict[str, Any]:
    """What the last snapshot has."""
    file = last_snapshot(folder / "saved").file
    assert file is not None
    models = json.loads(read_properties(file)["model_snapshot"])["models"]
    assert isinstance(models, dict)
    return models


def _restored(folder: Path) -> tuple[ServingOptions, ...]:
    return load_config(last_snapshot(folder / "saved").file, {}, {}).models.startup


def options(url: str, **more: Any) -> ServingOptions:
    return ServingOptions(url=url, **more)


async def test_snapshot_has_torchserves_fields_and_those_it_loses(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        await parts.start()
        await parts.manager.register(options("a", name="x y", handler="h.py", min_workers=1, batch_delay=0.25))
        await parts.manager.scale("x y", None, 3, 4)
        await parts.manager.scale("x y", None, 1, 4)
        assert _models(tmp_path) == {
            "x y": {
                "1.0": {
                    "defaultVersion": True,
                    "marName": "a",
                    "minWorkers": 1,
                    "maxWorkers": 4,
                    "batchSize": 1,
                    "maxBatchDelay": 250,
                    "responseTimeout": 120,
                    "startupTimeout": 120,
                    "runtimeType": "python",
                    "workers": 3,
                    "handler": "h.py",
                }
            }
        }


async def test_each_change_is_on_the_disk_when_it_is_answered(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        add_model(parts.folder, "a", "2.0", folder="a2")
        await parts.start()
        await parts.manager.register(options("a"))
        assert _models(tmp_path).keys() == {"a"}
        await parts.manager.register(options("b", min_workers=1), synchronous=False)
        assert _models(tmp_path).keys() == {"a", "b"}
        await parts.manager.register(options("a2"))
        await parts.manager.set_default("a", "2.0")
        assert [fields["defaultVersion"] for fields in _models(tmp_path)["a"].values()] == [False, True]
        await parts.manager.scale("b", None, 5, 6)
        assert _models(tmp_path)["b"]["1.0"]["minWorkers"] == 5
        await parts.manager.unregister("b")
        assert _models(tmp_path).keys() == {"a"}


async def test_start_changes_and_stop_are_each_a_file(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        await parts.start(options("a"))
        await parts.manager.recorded()
        await parts.manager.register(options("b"))
    assert _kinds(tmp_path) == ["startup", "snapshot", "shutdown"]


async def test_change_of_nothing_writes_nothing(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        await parts.start(options("a", min_workers=1))
        await parts.manager.scale("a", None, 1, 1)
        await parts.manager.scale("a", None, 1, 1)
        assert _kinds(tmp_path) == ["startup"]


async def test_next_start_serves_what_was_served(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        add_model(parts.folder, "a", "2.0", folder="a2")
        await parts.start(options("a", name="$$m$$"), options("a2", name="$$m$$"), options("b", name="wörter"))
        await parts.manager.set_default("$$m$$", "2.0")
        await parts.manager.scale("wörter", None, 3, 5)
        await parts.manager.scale("wörter", None, 1, 5)
        before = dict(parts.engine.workers)
    async with managed(tmp_path / "again") as parts:
        add_model(parts.folder, "a", "2.0", folder="a2")
        await parts.start(*_restored(tmp_path))
        assert parts.engine.workers == before
        assert [(one.key.name, one.key.version) for one in parts.manager.registry.defaults()] == [
            ("$$m$$", "2.0"),
            ("wörter", "1.0"),
        ]
        described = (await parts.manager.describe("wörter", None))[0]
        assert (described.min_workers, described.max_workers) == (1, 5)


async def test_model_whose_archive_is_missing_is_not_forgotten(tmp_path: Path) -> None:
    """A store that is not mounted yet must not cost the models that are in it."""
    async with saving(tmp_path) as parts:
        lost = options("lost", name="a", version="2.0", default_version=True, loaded_at_startup=False, batch_size=3)
        await parts.start(options("a", name="a", version="1.0", loaded_at_startup=False), lost, options("later"))
        await parts.manager.register(options("b"))
    of_a, of_later, of_b = (_models(tmp_path)[name] for name in ("a", "later", "b"))
    assert [fields["defaultVersion"] for fields in of_a.values()] == [False, True]
    assert (of_a["2.0"]["marName"], of_a["2.0"]["batchSize"]) == ("lost", 3)
    assert of_later["1.0"]["nameFromArchive"]
    assert of_b["1.0"]["defaultVersion"]


async def test_default_that_was_set_holds_against_the_one_that_is_missing(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        lost = options("lost", name="a", version="2.0", default_version=True, loaded_at_startup=False)
        await parts.start(options("a", name="a", version="1.0", loaded_at_startup=False), lost)
        await parts.manager.set_default("a", "1.0")
    assert [fields["defaultVersion"] for fields in _models(tmp_path)["a"].values()] == [True, False]


async def test_model_that_does_not_load_is_not_kept(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        await parts.start(options("a"))
        parts.engine.failures["b"] = WorkerDied("shot")
        with pytest.raises(LoadFailed):
            await parts.manager.register(options("b"))
        await parts.manager.recorded()
        assert _models(tmp_path).keys() == {"a"}


async def test_version_of_an_archive_that_has_changed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(options("a", name="a", version="0.9", loaded_at_startup=False))
    assert "has version 0.9 of model a; its archive a is version 1.0 now" in caplog.text


async def test_models_of_workflows_are_not_saved(tmp_path: Path) -> None:
    async with saving(tmp_path) as parts:
        await parts.start(options("a"))
        await parts.manager.register(options("b", name="flow__b", workflow="flow"))
        assert _models(tmp_path).keys() == {"a"}


async def test_stop_before_the_models_are_known_saves_nothing(tmp_path: Path) -> None:
    async with saving(tmp_path):
        pass
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "no room"])
async def test_disk_that_takes_nothing_is_told_once_and_fails_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    if obstacle == "no room":
        monkeypatch.setattr(os, "fsync", _no_room)
    else:
        (tmp_path / "saved").write_text("")
    async with saving(tmp_path) as parts:
        await parts.start(options("a"))
        await parts.manager.register(options("b"))
        await parts.manager.scale("b", None, 2, 2)
        assert parts.engine.workers == {A: 2, B: 2}
    assert caplog.text.count("Snapshots cannot be written") == 1
    assert not list(tmp_path.glob("saved/*"))


def _no_room(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


async def test_changes_that_come_while_a_file_is_written_are_one_file(tmp_path: Path, monkeypatch: Any) -> None:
    async with saving(tmp_path) as parts:
        await parts.start()
        await parts.manager.recorded()
        for number in range(5):
            add_model(parts.folder, f"m{number}")
        loaded, fsync = threading.Event(), os.fsync
        parts.manager.changed.append(lambda: loaded.set() if len(parts.engine.workers) == 5 else None)
        monkeypatch.setattr(os, "fsync", lambda descriptor: (loaded.wait(), fsync(descriptor)))
        await asyncio.gather(*(parts.manager.register(options(f"m{number}")) for number in range(5)))
        assert len(_models(tmp_path)) == 5
        assert len(_kinds(tmp_path)) <= 3  # the startup's, the one that was being written, and one for all the rest


def test_folder_keeps_the_newest_and_the_last_start(tmp_path: Path) -> None:
    folder = SnapshotFolder(SnapshotConfig(folder=tmp_path))
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "20200101000000000-shutdown.cfg").write_text("#Saving snapshot\nversion=0.12.0\n")
    for kind in ("startup", "snapshot", "startup"):
        folder.write(kind, {})
    for number in range(30):
        folder.write("snapshot", {"m": {str(number): {}}})
    files = snapshot_files(tmp_path)
    assert [file.kind for file in files[:-1]] == ["snapshot"] * 20 + ["startup"]
    assert files[-1].path.name == "20200101000000000-shutdown.cfg"
    assert (tmp_path / "mine.txt").exists()


def test_snapshot_is_newer_than_all_others_when_the_clock_is_set_back(tmp_path: Path) -> None:
    (tmp_path / snapshot_name(datetime(2090, 12, 31, 23, 59, 59, 999000), "snapshot")).write_text("")
    folder = SnapshotFolder(SnapshotConfig(folder=tmp_path))
    folder.write("startup", _ONE)
    folder.write("snapshot", {})
    assert [file.path.name for file in snapshot_files(tmp_path)][:2] == [
        "20910101000000001-snapshot.cfg",
        "20910101000000000-startup.cfg",
    ]


_KILLED = """
import os, signal, sys
from pathlib import Path
from torchserve_lite.config.settings import SnapshotConfig
from torchserve_lite.management.snapshots import SnapshotFolder

folder = SnapshotFolder(SnapshotConfig(folder=Path(sys.argv[1])))
folder.write("startup", {"m": {"1.0": {"marName": "old.mar"}}})
left = int(sys.argv[2])

def step(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
for number in range(25):
    folder.write("snapshot", {"m": {"1.0": {"marName": f"new{number}.mar"}}})
"""


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 6, 7, 8, 60, 61, 62, 63, 64, 65])
def test_killed_while_it_writes_leaves_whole_snapshots_alone(tmp_path: Path, steps: int) -> None:
    """At each of the steps that touch the disk; the last of them come when old files are removed."""
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), str(steps)], check=False)
    assert killed.returncode == -signal.SIGKILL
    found = last_snapshot(tmp_path)
    assert found.models == 1
    assert found.notices == ()
    SnapshotFolder(SnapshotConfig(folder=tmp_path)).write("startup", _ONE)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_models_of_a_url_come_back_without_its_password(tmp_path: Path) -> None:
    registry = ModelRegistry()
    url = "https://me:secret@host/models/m.mar?X-Amz-Signature=secret"
    registry.unopened.append(Deployment(name="m", options=options(url, name="m")))
    fields = saved_models(registry, FakeEngine())["m"]["1.0"]
    assert (fields["marName"], fields["modelUrl"]) == ("m.mar", "https://host/models/m.mar")
