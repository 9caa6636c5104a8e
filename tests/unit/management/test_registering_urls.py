"""Models from URLs through the manager: whatever becomes of them, the store holds what is served and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.config.settings import DownloadConfig, ModelsConfig, WorkerConfig
from torchserve_lite.config.values import networks, url_patterns
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import Conflict, InvalidArchive, LoadFailed, ServingError
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.registry import ModelRegistry

from .origins import Origin, origin
from .test_fetching import archive
from .test_manager import Progress


class Managed:
    def __init__(self, folder: Path, origin: Origin) -> None:
        self.store, self.scratch, self.origin, self.engine = folder / "store", folder / "scratch", origin, FakeEngine()
        self.store.mkdir()
        self.manager = ModelManager(
            self.engine,
            ModelStore(folder=self.store, scratch=self.scratch),
            ModelRegistry(),
            WorkerConfig(),
            default_workers=1,
            environments=folder / "environments",
            downloads=DownloadConfig(
                allowed_urls=url_patterns("http://127.*"), allowed_url_networks=networks("127.0.0.1")
            ),
        )

    async def register(self, url: str, name: str = "m", **options: Any) -> None:
        await self.manager.register(ServingOptions(url=url, name=name, min_workers=1, **options))

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in self.store.iterdir())

    @property
    def unpacked(self) -> int:
        return len(list((self.scratch / "models").iterdir()))


@pytest.fixture
async def managed(tmp_path: Path) -> AsyncIterator[Managed]:
    async with origin() as web:
        made = Managed(tmp_path, web)
        async with made.manager:
            await made.manager.load_initial_models(ModelsConfig(), Progress())
            yield made


async def test_file_goes_with_its_model(managed: Managed) -> None:
    url = managed.origin.serve("/m.mar", archive())
    await managed.register(url)
    assert managed.manager.list_models() == [("m", url)]
    assert managed.kept == ["m.mar"]
    await managed.manager.unregister("m")
    assert (managed.kept, managed.unpacked) == ([], 0)


async def test_file_stays_for_another_model_that_is_served_from_it(managed: Managed) -> None:
    url = managed.origin.serve("/m.mar", archive())
    await managed.register(url)
    await managed.register("m.mar", "by_name")
    await managed.manager.unregister("m")
    assert managed.kept == ["m.mar"]
    await managed.manager.unregister("by_name")
    assert managed.kept == []


async def test_model_that_does_not_load_leaves_nothing_and_can_be_tried_again(managed: Managed) -> None:
    """TorchServe keeps the file, and answers the next try with "Model file already exists"."""
    url = managed.origin.serve("/m.mar", archive())
    managed.engine.failures["m"] = LoadFailed("no such weights")
    with pytest.raises(LoadFailed):
        await managed.register(url)
    assert (managed.kept, managed.unpacked) == ([], 0)
    managed.engine.failures.clear()
    await managed.register(url)
    assert managed.kept == ["m.mar"]


async def test_second_registration_of_one_version_leaves_the_first_its_file(managed: Managed) -> None:
    url = managed.origin.serve("/m.mar", archive())
    await managed.register(url)
    with pytest.raises(Conflict, match="already registered"):
        await managed.register(url)
    assert (managed.kept, managed.unpacked) == (["m.mar"], 1)


async def test_model_that_asks_for_what_cannot_be_is_not_kept(managed: Managed) -> None:
    url = managed.origin.serve("/m.mar", archive())
    with pytest.raises(InvalidArchive, match=r"^m\.mar: minWorkers=1 is more than maxWorkers=0"):
        await managed.register(url, max_workers=0)
    assert (managed.kept, managed.unpacked) == ([], 0)


async def test_one_of_many_who_register_one_url_at_once_is_served(managed: Managed) -> None:
    url = managed.origin.serve("/m.mar", archive())
    outcomes = await asyncio.gather(*(managed.register(url) for _ in range(10)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9
    assert (managed.kept, managed.unpacked) == (["m.mar"], 1)


async def test_update_from_a_url_and_back_keeps_what_is_needed(managed: Managed) -> None:
    first, second = (managed.origin.serve(f"/m{number}.mar", archive("m")) for number in (1, 2))
    await managed.register(first)
    await managed.manager.update("m", None, ServingOptions(url=second))
    assert managed.kept == ["m1.mar", "m2.mar"]  # the first for a rollback
    await managed.manager.rollback("m", None)
    await managed.manager.unregister("m")
    assert (managed.kept, managed.unpacked) == ([], 0)


async def test_update_that_fails_leaves_nothing_of_its_own(managed: Managed) -> None:
    await managed.register(managed.origin.serve("/m1.mar", archive("m")))
    managed.engine.failures["m"] = LoadFailed("no such weights")
    with pytest.raises(ServingError):
        await managed.manager.update("m", None, ServingOptions(url=managed.origin.serve("/m2.mar", archive("m"))))
    assert (managed.kept, managed.unpacked) == (["m1.mar"], 1)


async def test_model_of_the_start_that_cannot_be_served_leaves_nothing(tmp_path: Path) -> None:
    async with origin() as web:
        made, progress = Managed(tmp_path, web), Progress()
        url = web.serve("/m.mar", archive())
        async with made.manager:
            models = (ServingOptions(url=url), ServingOptions(url=f"{web.url}/none.mar"), ServingOptions(url=url))
            await made.manager.load_initial_models(ModelsConfig(startup=models), progress)
            assert made.kept == ["m.mar"]
            assert progress.ready == ["m 1.0 1"]
            assert sorted(progress.failed) == ["m", "none"]
    assert made.kept == ["m.mar"]  # for the next start
