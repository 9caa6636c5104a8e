"""Models that are loaded and unloaded by name, from a store of two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.management.test_manager import A, B, add_model, managed
from torchserve_lite.core.models import ModelKey, WorkerState
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import ModelNotFound
from torchserve_lite.management.repository import ModelRepository


async def test_loaded_model_has_the_workers_of_one_loaded_at_the_start(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await ModelRepository(parts.manager).load("a")
        assert parts.engine.workers == {A: 2}


async def test_model_is_loaded_under_the_name_asked_for(tmp_path: Path) -> None:
    """The file's, whatever the manifest calls it."""
    async with managed(tmp_path) as parts:
        add_model(parts.folder, "inner", folder="outer")
        await ModelRepository(parts.manager).load("outer")
        assert parts.engine.workers == {ModelKey("outer", "1.0"): 2}


async def test_loading_what_is_loaded_changes_nothing(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a", min_workers=3))
        await ModelRepository(parts.manager).load("a")
        assert parts.engine.workers == {A: 3}


@pytest.mark.parametrize("state", [WorkerState.READY, WorkerState.FAILED])
async def test_loading_starts_workers_where_there_are_none(tmp_path: Path, state: WorkerState) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a", min_workers=3))
        if state is WorkerState.READY:
            await parts.manager.scale("a", None, 0, 0)
        else:
            parts.engine.states[A] = state
            parts.engine.workers[A] = 1
        await ModelRepository(parts.manager).load("a")
        assert parts.engine.workers == {A: 2 if state is WorkerState.READY else 3}


@pytest.mark.parametrize(
    "name", ["c", "", "..", ".", "../store/a", "store", "store/a", "http://127.0.0.1:9/a.mar", "a/MAR-INF"]
)
async def test_loading_what_is_not_in_the_store_is_refused(tmp_path: Path, name: str) -> None:
    async with managed(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await ModelRepository(parts.manager).load(name)


async def test_every_version_is_unloaded(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        add_model(parts.folder, "a", version="2.0", folder="a2")
        await parts.start(ServingOptions(url="a"), ServingOptions(url="a2"), ServingOptions(url="b"))
        await ModelRepository(parts.manager).unload("a")
        assert parts.engine.workers == {B: 2}


async def test_unloading_an_unknown_model_is_refused(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await ModelRepository(parts.manager).unload("c")


async def test_what_nothing_is_served_from_is_unloaded(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        add_model(parts.folder, "inner", folder="outer")
        await parts.start(ServingOptions(url="a"), ServingOptions(url="outer"))
        assert await ModelRepository(parts.manager).unloaded() == ["b"]


@pytest.mark.parametrize("form", ["a folder", "an archive in a folder", "a folder in a folder"])
async def test_model_that_was_pulled_beside_the_store_outlives_its_files(tmp_path: Path, form: str) -> None:
    """KServe's agent deletes them first, and then has it unloaded."""
    async with managed(tmp_path) as parts:
        add_model(tmp_path, "inner", folder="pulled/inner" if form == "a folder in a folder" else "pulled")
        if form == "an archive in a folder":
            file = shutil.make_archive(str(tmp_path / "inner"), "zip", tmp_path / "pulled")
            shutil.rmtree(tmp_path / "pulled")
            (tmp_path / "pulled").mkdir()
            Path(file).rename(tmp_path / "pulled" / "inner.mar")
        await ModelRepository(parts.manager).load("pulled")
        key = ModelKey("pulled", "1.0")
        assert parts.engine.workers == {key: 2}
        shutil.rmtree(tmp_path / "pulled")
        files = parts.manager.registry.locate(parts.manager.registry.resolve("pulled").spec)
        assert (Path(files.folder) / "h.py").is_file()
        await ModelRepository(parts.manager).unload("pulled")
        assert parts.engine.workers == {}
        assert not Path(files.folder).exists()


async def test_store_comes_before_what_was_pulled(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        add_model(tmp_path, "a", version="7.0")
        await ModelRepository(parts.manager).load("a")
        assert parts.engine.workers == {A: 2}
