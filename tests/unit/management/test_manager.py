"""The verbs that change and show what is served, with folder models and an engine without workers."""

from __future__ import annotations

import asyncio
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from torchserve_lite.archive.store import Archive, ModelStore
from torchserve_lite.config.settings import ModelsConfig, WorkerConfig
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import Envelope
from torchserve_lite.errors import (
    ConfigurationError,
    Conflict,
    LoadFailed,
    ModelNotFound,
    ModelNotRegistered,
    ModelVersionNotFound,
    NoRoom,
    ServingError,
    UnknownDefault,
    WorkerDied,
)
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.registry import ModelRegistry

A, B = ModelKey("a", "1.0"), ModelKey("b", "1.0")


class Progress:
    """What the display would show."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ready: list[str] = []
        self.failed: dict[str, str] = {}

    def listening(self, addresses: Mapping[str, str]) -> None: ...

    def loading(self, models: Sequence[str]) -> None:
        self.asked = list(models)

    def model_ready(self, model: str, version: str, workers: int, seconds: float) -> None:
        self.ready.append(f"{model} {version} {workers}")

    def model_failed(self, model: str, message: str) -> None:
        self.failed[model] = message

    def started(self, seconds: float) -> None: ...

    def stopping(self) -> None: ...


def add_model(store: Path, name: str, version: str = "1.0", folder: str = "", **manifest: Any) -> None:
    model = {"modelName": name, "modelVersion": version, "handler": "h.py", **manifest}
    path = store / (folder or name) / "MAR-INF"
    path.mkdir(parents=True)
    (path / "MANIFEST.json").write_text(json.dumps({"createdOn": "x", "archiverVersion": "x", "model": model}))
    (path.parent / "h.py").write_text("")


class Managed:
    """A manager over a store with two models, ``a`` and ``b``."""

    def __init__(self, folder: Path, store: type[ModelStore] = ModelStore, engine: FakeEngine | None = None) -> None:
        self.folder = folder / "store"
        for name in ("a", "b"):
            add_model(self.folder, name)
        self.engine = engine or FakeEngine()
        self.progress = Progress()
        opener = store(folder=self.folder, scratch=folder / "scratch", pulled=folder)
        self.manager = ModelManager(
            self.engine,
            opener,
            ModelRegistry(),
            WorkerConfig(),
            default_workers=2,
            environments=folder / "environments",
        )

    @property
    def failed(self) -> dict[str, str]:
        """The models that are told of as failed, and why."""
        registry = self.manager.registry
        return {one.name: str(one.failure) for one in [*registry, *registry.unopened] if one.failure is not None}

    async def start(self, *models: ServingOptions, **config: Any) -> None:
        await self.manager.load_initial_models(ModelsConfig(startup=models, **config), self.progress)


@asynccontextmanager
async def managed(folder: Path, store: type[ModelStore] = ModelStore) -> AsyncIterator[Managed]:
    made = Managed(folder, store)
    async with made.manager:
        yield made


async def test_every_archive_of_the_store_is_loaded(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(load_all=True)
        assert parts.engine.workers == {A: 2, B: 2}
        assert sorted(parts.progress.ready) == ["a 1.0 2", "b 1.0 2"]
        assert parts.manager.list_models() == [("a", "a"), ("b", "b")]


async def test_model_that_comes_from_no_store_is_described_and_not_listed(tmp_path: Path) -> None:
    """So are the functions of workflows."""
    async with managed(tmp_path) as parts:
        with ModelStore(folder=parts.folder, scratch=tmp_path / "scratch").open("a") as opened:
            archive = replace(opened, url="")
            deployment = await parts.manager.register(ServingOptions(name="w__f", workflow="w"), archive=archive)
            assert (deployment.workflow, deployment.key) == ("w", ModelKey("w__f", "1.0"))
            assert parts.manager.list_models() == []
            (described,) = await parts.manager.describe("w__f", None)
            assert described.spec.archive_url == ""
            await parts.manager.unregister("w__f")


async def test_model_is_served_under_the_name_and_with_the_workers_asked_for(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a", name="mine", min_workers=3))
        assert parts.engine.workers == {ModelKey("mine", "1.0"): 3}


async def test_override_is_found_by_name_and_version(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a"), overrides={("a", "1.0"): ServingOptions(url="", min_workers=4)})
        assert parts.engine.workers == {A: 4}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param("missing.mar", "Model not found at: missing.mar", id="missing"),
        pytest.param("../a", "Relative path is not allowed", id="outside the store"),
    ],
)
async def test_model_that_cannot_be_opened_is_told_and_the_others_are_served(
    url: str, told: str, tmp_path: Path
) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url=url, name="bad"), ServingOptions(url="a"))
        assert told in parts.progress.failed["bad"]
        assert told in parts.failed["bad"]
        assert parts.engine.workers == {A: 2}


@pytest.mark.parametrize("version", [None, "1.0", "all"])
async def test_management_of_a_model_that_could_not_be_set_up_is_told_why(version: str | None, tmp_path: Path) -> None:
    """It was said that there is no such model."""
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="missing.mar", name="bad"))
        with pytest.raises(ModelNotRegistered, match=r"restart the server\. Model not found at: missing\.mar"):
            await parts.manager.describe("bad", version)
        with pytest.raises(ModelNotRegistered, match=r"missing\.mar"):
            await parts.manager.scale("bad", version, 1, 1)
        with pytest.raises(ModelNotRegistered, match=r"missing\.mar"):
            parts.manager.scale_in_background("bad", version, 1, 1)


async def test_archives_for_which_another_one_left_no_room_are_served(tmp_path: Path) -> None:
    """``a`` fills the disk until it is given up; ``b`` is unpacked at the same time."""
    full, given_up = threading.Event(), threading.Event()

    class SmallDisk(ModelStore):
        def open_at(self, url: str, path: Path) -> Archive:
            if url == "a":
                full.set()
                given_up.wait(60)
                raise NoRoom("a", "cannot be unpacked")
            full.wait(60)
            if not given_up.is_set():
                given_up.set()
                raise NoRoom("b", "cannot be unpacked")
            return super().open_at(url, path)

    async with managed(tmp_path, SmallDisk) as parts:
        await parts.start(load_all=True)
        assert parts.engine.workers == {B: 2}
        assert parts.progress.failed == {"a": "a: cannot be unpacked"}


@pytest.mark.parametrize(
    ("file", "manifest_name", "asked_for"),
    [
        pytest.param("file.mar", "mine", "mine", id="the manifest's name"),
        pytest.param("resnet.v2", "", "resnet_v2", id="the file's name"),
    ],
)
async def test_model_that_cannot_be_set_up_is_told_under_the_name_that_it_would_have(
    file: str, manifest_name: str, asked_for: str, tmp_path: Path
) -> None:
    """It was kept under the first part of its file's name, and its clients heard that there is no such model."""
    async with managed(tmp_path) as parts:
        add_model(parts.folder, manifest_name, folder=file, handler="")
        await parts.start(ServingOptions(url=file))
        assert list(parts.failed) == [asked_for]


async def test_second_archive_of_the_same_version_is_refused(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        add_model(parts.folder, "a", folder="copy")
        await parts.start(ServingOptions(url="a"), ServingOptions(url="copy"))
        assert "already registered" in parts.failed["copy"]


async def test_failed_load_is_told_but_not_final(tmp_path: Path) -> None:
    """Its workers are tried again; the readiness of the model follows them."""
    async with managed(tmp_path) as parts:
        parts.engine.failures["a"] = LoadFailed("no such weights")
        await parts.start(ServingOptions(url="a"))
        assert parts.progress.failed == {"a": "no such weights"}
        assert parts.failed == {}


async def test_model_that_can_never_load_stays_failed(tmp_path: Path) -> None:
    """It names a GPU that is not there, say: nobody tries again."""
    async with managed(tmp_path) as parts:
        parts.engine.failures["a"] = ConfigurationError("deviceIds names [7]")
        await parts.start(ServingOptions(url="a"))
        assert parts.failed == {"a": "deviceIds names [7]"}


async def test_manager_says_that_it_is_still_opening_archives(tmp_path: Path) -> None:
    let_go = threading.Event()

    class SlowStore(ModelStore):
        def open_at(self, url: str, path: Path) -> Archive:
            let_go.wait(60)
            return super().open_at(url, path)

    async with managed(tmp_path, SlowStore) as parts:
        assert parts.manager.registry.opening
        starting = asyncio.create_task(parts.start(ServingOptions(url="a")))
        await asyncio.sleep(0)
        assert parts.manager.registry.opening
        let_go.set()
        await starting
        assert not parts.manager.registry.opening


@pytest.mark.parametrize(
    ("now", "low", "high", "then"),
    [
        pytest.param(2, 3, 5, 3, id="up to the least"),
        pytest.param(2, 0, 1, 1, id="down to the most"),
        pytest.param(2, 1, 5, 2, id="between already"),
        pytest.param(2, 0, 0, 0, id="to none"),
    ],
)
async def test_scaling_goes_no_further_than_it_must(now: int, low: int, high: int, then: int, tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a", min_workers=now))
        assert await parts.manager.scale("a", None, low, high) == then
        assert parts.engine.workers == {A: then}
        (described,) = await parts.manager.describe("a", None)
        assert (described.min_workers, described.max_workers) == (low, high)


async def test_scaling_in_the_background_is_refused_at_once_for_an_unknown_model(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            parts.manager.scale_in_background("unknown", None, 1, 1)


@pytest.mark.parametrize("failure", [LoadFailed("no such weights"), WorkerDied("It was shot."), ModelNotFound("a")])
async def test_scaling_that_fails_in_the_background_is_logged_and_harms_nobody(
    failure: ServingError, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that died meanwhile once ended the whole server: the error left the manager's task group."""
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a"))
        parts.engine.failures["a"] = failure
        parts.manager.scale_in_background("a", None, 5, 5)
        await asyncio.gather(*parts.manager._turns._tasks)
        assert str(failure) in caplog.text


async def test_describe_shows_one_version_or_all(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        add_model(parts.folder, "a", "2.0", folder="second")
        await parts.start(ServingOptions(url="a"), ServingOptions(url="second"))
        described = {
            asked: [str(one.spec.key) for one in await parts.manager.describe("a", asked)]
            for asked in (None, "2.0", "all")
        }
        assert described == {None: ["a_1.0"], "2.0": ["a_2.0"], "all": ["a_1.0", "a_2.0"]}
        with pytest.raises(ModelVersionNotFound):
            await parts.manager.describe("a", "3.0")


async def test_model_can_be_described_before_it_has_begun_to_load(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a", min_workers=3))
        (described,) = await parts.manager.describe("a", None)
        assert (described.min_workers, described.max_workers) == (3, 3)


async def test_workers_find_the_unpacked_model_until_its_home_is_closed(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="a"))
        spec = parts.manager.registry.resolve("a").spec
        assert parts.manager.registry.locate(spec).folder == str((parts.folder / "a").resolve())
        parts.manager.registry.close()
        assert list((tmp_path / "scratch" / "models").iterdir()) == []


async def test_registered_model_is_served_and_unregistered_it_is_gone(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        told: list[None] = []
        parts.manager.changed.append(lambda: told.append(None))
        await parts.manager.register(ServingOptions(url="a", min_workers=2))
        assert (parts.engine.workers, len(told)) == ({A: 2}, 1)
        await parts.manager.unregister("a")
        assert (parts.engine.workers, len(told)) == ({}, 2)
        with pytest.raises(ModelNotFound):
            await parts.manager.describe("a", None)


async def test_model_registered_without_a_word_about_workers_has_none(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.manager.register(ServingOptions(url="a"))
        assert parts.engine.workers == {A: 0}


async def test_model_that_cannot_load_is_as_if_it_had_never_been_registered(tmp_path: Path) -> None:
    """TorchServe keeps some of them, and a second try is answered with 409."""
    async with managed(tmp_path) as parts:
        parts.engine.failures["a"] = LoadFailed("no such weights")
        with pytest.raises(LoadFailed, match=r"Failed to start workers for model a version: 1\.0\. no such weights"):
            await parts.manager.register(ServingOptions(url="a", min_workers=1))
        del parts.engine.failures["a"]
        await parts.manager.register(ServingOptions(url="a", min_workers=1))
        assert parts.engine.workers == {A: 1}


async def test_of_several_registrations_of_one_version_at_once_one_succeeds(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        registrations = [parts.manager.register(ServingOptions(url="a", min_workers=1)) for _ in range(5)]
        outcomes = await asyncio.gather(*registrations, return_exceptions=True)
        assert sorted(type(one).__name__ for one in outcomes) == ["Conflict"] * 4 + ["Deployment"]
        assert len(list((tmp_path / "scratch" / "models").iterdir())) == 1


class SlowEngine(FakeEngine):
    """Loading and scaling wait until ``let_go`` is set; ``begun`` says that one does."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go, self.begun = asyncio.Event(), asyncio.Event()

    async def scale(self, key: ModelKey, workers: int) -> None:
        self.begun.set()
        await self.let_go.wait()
        await super().scale(key, workers)


@asynccontextmanager
async def slow(folder: Path) -> AsyncIterator[tuple[Managed, SlowEngine]]:
    engine = SlowEngine()
    made = Managed(folder, engine=engine)
    async with made.manager:
        yield made, engine


async def test_model_that_still_loads_can_be_unregistered(tmp_path: Path) -> None:
    async with slow(tmp_path) as (parts, engine):
        registering = asyncio.create_task(parts.manager.register(ServingOptions(url="a", min_workers=1)))
        await engine.begun.wait()
        await parts.manager.unregister("a")
        with pytest.raises(Conflict, match="unregistered meanwhile"):
            await registering
        assert list(parts.manager.registry) == []


async def test_scaling_while_a_model_loads_takes_its_turn(tmp_path: Path) -> None:
    """It was answered that there is no such model, or forgotten when the loading ended."""
    async with slow(tmp_path) as (parts, engine):
        starting = asyncio.create_task(parts.start(ServingOptions(url="a", min_workers=1)))
        await engine.begun.wait()
        scaling = asyncio.create_task(parts.manager.scale("a", None, 3, 3))
        engine.let_go.set()
        await starting
        assert (await scaling, engine.workers) == (3, {A: 3})


async def test_change_goes_on_when_whoever_asked_for_it_has_gone(tmp_path: Path) -> None:
    async with slow(tmp_path) as (parts, engine):
        asking = asyncio.create_task(parts.manager.register(ServingOptions(url="a", min_workers=1)))
        await engine.begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        engine.let_go.set()
        assert await parts.manager.scale("a", None, 1, 1) == 1
        assert engine.workers == {A: 1}


async def test_what_was_registered_can_be_told_when_somebody_has_unregistered_it(tmp_path: Path) -> None:
    """The answer was that the model still loads."""
    async with managed(tmp_path) as parts:
        deployment = await parts.manager.register(ServingOptions(url="a"))
        await parts.manager.unregister("a")
        assert (deployment.key, deployment.spec.archive_url) == (A, "a")


@pytest.mark.parametrize("loads", [True, False])
async def test_version_that_still_loads_becomes_the_default_when_it_has_loaded(loads: bool, tmp_path: Path) -> None:
    """Requests to the model failed meanwhile."""
    async with slow(tmp_path) as (parts, engine):
        add_model(parts.folder, "a", version="2.0", folder="a2")
        await parts.manager.register(ServingOptions(url="a"), synchronous=False)
        engine.let_go.set()
        await parts.manager.scale("a", None, 1, 1)
        engine.let_go.clear()
        engine.begun.clear()
        registering = asyncio.create_task(parts.manager.register(ServingOptions(url="a2")))
        await engine.begun.wait()
        setting = asyncio.create_task(parts.manager.set_default("a", "2.0"))
        await asyncio.sleep(0)
        assert parts.manager.registry.resolve("a").key == A
        if not loads:
            engine.failures["a"] = LoadFailed("no such weights")
        engine.let_go.set()
        await asyncio.wait([registering, setting])
        assert parts.manager.registry.resolve("a").key.version == ("2.0" if loads else "1.0")
        assert isinstance(setting.exception(), UnknownDefault) != loads
        assert (registering.exception() is None) == loads


def replace_archive(store: Path, name: str, **manifest: Any) -> None:
    """As ``cp new.mar store/name`` does: a file, since a folder is served where it lies."""
    model = {"modelName": name, "modelVersion": "1.0", "handler": "h.py", **manifest}
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        manifest_text = json.dumps({"createdOn": "x", "archiverVersion": "x", "model": model})
        archive.writestr("MAR-INF/MANIFEST.json", manifest_text)
        archive.writestr("h.py", "")
        archive.writestr("g.py", "")


async def test_update_serves_the_new_archive_and_rollback_the_old_one_again(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar", min_workers=2))
        replace_archive(parts.folder, "m", handler="g.py")
        served = await parts.manager.update("m", None, ServingOptions(url="m.mar"))
        assert (served.spec.handler, parts.engine.workers) == ("g.py", {ModelKey("m", "1.0"): 2})
        assert (await parts.manager.rollback("m", None)).spec.handler == "h.py"
        assert (await parts.manager.rollback("m", None)).spec.handler == "g.py"


async def test_update_to_another_version_takes_its_place_and_the_default(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar", min_workers=2))
        replace_archive(parts.folder, "m", modelVersion="2.0")
        await parts.manager.update("m", None, ServingOptions(url="m.mar"))
        assert parts.engine.workers == {ModelKey("m", "2.0"): 2}
        await parts.manager.rollback("m", None)
        assert parts.engine.workers == {ModelKey("m", "1.0"): 2}
        assert len(list((tmp_path / "scratch" / "models").iterdir())) == 2


async def test_version_that_is_updated_while_its_predecessor_drains_goes_back_to_what_it_was_itself(
    tmp_path: Path,
) -> None:
    async with managed(tmp_path) as parts:
        draining, go_on = asyncio.Event(), asyncio.Event()

        async def unload(key: ModelKey, grace: float) -> None:
            draining.set()
            await go_on.wait()

        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar"))
        replace_archive(parts.folder, "m", modelVersion="2.0")
        parts.engine.unload = unload  # type: ignore[method-assign]
        updating = asyncio.create_task(parts.manager.update("m", None, ServingOptions(url="m.mar")))
        await draining.wait()
        await parts.manager.update("m", None, ServingOptions(url="m.mar"))
        go_on.set()
        await updating
        assert len(list((tmp_path / "scratch" / "models").iterdir())) == 2
        assert (await parts.manager.rollback("m", None)).key.version == "2.0"


async def test_update_that_does_not_load_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar", min_workers=2))
        for version in ("1.0", "2.0"):
            replace_archive(parts.folder, "m", modelVersion=version, handler="g.py")
            parts.engine.failures["m"] = LoadFailed("no such weights")
            with pytest.raises(LoadFailed, match="no such weights"):
                await parts.manager.update("m", None, ServingOptions(url="m.mar"))
            assert [one.spec.handler for one in parts.manager.registry] == ["h.py"]
        with pytest.raises(Conflict, match="nothing to go back to"):
            await parts.manager.rollback("m", None)
        assert len(list((tmp_path / "scratch" / "models").iterdir())) == 1


async def test_update_asks_the_sample_request_that_the_archive_brings(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.manager.register(ServingOptions(url="a", min_workers=1))
        (parts.folder / "a" / "sample_request.json").write_text('{"instances": [1]}')
        await parts.manager.update("a", None, ServingOptions(url="a"))
        (asked,) = parts.engine.warm_ups
        assert (asked.envelope, asked.parts[0].data) == (Envelope.KSERVE, b'{"instances": [1]}')


async def test_failure_of_the_start_is_forgotten_when_the_model_is_registered_or_unregistered(tmp_path: Path) -> None:
    async with managed(tmp_path) as parts:
        await parts.start(ServingOptions(url="gone.mar", name="a"), ServingOptions(url="gone.mar", name="b"))
        await parts.manager.register(ServingOptions(url="a"))
        assert list(parts.failed) == ["b"]
        await parts.manager.unregister("b")
        assert list(parts.failed) == []


async def test_model_that_loads_at_the_start_can_be_unregistered(tmp_path: Path) -> None:
    """It was waited for, for as long as a start may take."""
    async with slow(tmp_path) as (parts, engine):
        starting = asyncio.create_task(parts.start(ServingOptions(url="a", min_workers=1)))
        await engine.begun.wait()
        await parts.manager.unregister("a")
        await starting
        assert parts.progress.failed == {"a": "Model a has been unregistered meanwhile."}
        assert list((tmp_path / "scratch" / "models").iterdir()) == []


async def test_model_that_cannot_load_is_withdrawn_also_when_its_client_has_gone(tmp_path: Path) -> None:
    """It stayed registered, made the server unready, and a second try was answered with 409."""
    async with slow(tmp_path) as (parts, engine):
        engine.failures["a"] = LoadFailed("no such weights")
        asking = asyncio.create_task(parts.manager.register(ServingOptions(url="a", min_workers=1)))
        await engine.begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        engine.let_go.set()
        await asyncio.gather(*parts.manager._turns._tasks, return_exceptions=True)
        assert list(parts.manager.registry) == []


async def test_model_that_could_never_load_says_so_when_it_is_changed(tmp_path: Path) -> None:
    """An update of it was loaded with no workers, and scaling said that there is no such model."""
    async with managed(tmp_path) as parts:
        parts.engine.failures["a"] = ConfigurationError("deviceIds names [7]")
        await parts.start(ServingOptions(url="a"))
        for change in (parts.manager.scale("a", None, 1, 1), parts.manager.update("a", None, ServingOptions(url="a"))):
            with pytest.raises(ModelNotRegistered, match=r"deviceIds names \[7\]"):
                await change


async def test_update_ends_when_the_version_that_it_loads_is_unregistered(tmp_path: Path) -> None:
    """Its client was told that the server shuts down, and another model's download counted as unused."""
    async with slow(tmp_path) as (parts, engine):
        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar"), synchronous=False)
        engine.let_go.set()
        await parts.manager.scale("m", None, 1, 1)
        engine.let_go.clear()
        engine.begun.clear()
        replace_archive(parts.folder, "m", modelVersion="2.0")
        updating = asyncio.create_task(parts.manager.update("m", None, ServingOptions(url="m.mar")))
        await engine.begun.wait()
        await parts.manager.unregister("m", "2.0")
        with pytest.raises(Conflict, match=r"m_2\.0 has been unregistered meanwhile"):
            await updating
        assert [str(one.key) for one in parts.manager.registry] == ["m_1.0"]
        assert len(list((tmp_path / "scratch" / "models").iterdir())) == 1


async def test_log_says_what_a_change_that_failed_has_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its client may have gone, and the worker's own line says that it is tried again."""
    async with managed(tmp_path) as parts:
        replace_archive(parts.folder, "m")
        await parts.manager.register(ServingOptions(url="m.mar", min_workers=1))
        parts.engine.failures = {"m": LoadFailed("no weights"), "b": LoadFailed("no memory")}
        with pytest.raises(LoadFailed):
            await parts.manager.update("m", None, ServingOptions(url="m.mar"))
        with pytest.raises(LoadFailed):
            await parts.manager.register(ServingOptions(url="b", min_workers=1))
        assert "Updating model m failed, and what was served is served on: no weights" in caplog.text
        assert "Model b_1.0 is not registered, because it does not load: no memory" in caplog.text


async def test_old_version_leaves_nothing_when_the_new_one_is_unregistered_before_it_has_gone(tmp_path: Path) -> None:
    """It was kept for a rollback of what was gone already."""

    class BusyEngine(FakeEngine):
        draining, let_go = asyncio.Event(), asyncio.Event()

        async def unload(self, key: ModelKey, grace: float) -> None:
            if key.version == "1.0":
                self.draining.set()
                await self.let_go.wait()
            await super().unload(key, grace)

    engine = BusyEngine()
    made = Managed(tmp_path, engine=engine)
    async with made.manager as manager:
        replace_archive(made.folder, "m")
        await manager.register(ServingOptions(url="m.mar", min_workers=1))
        replace_archive(made.folder, "m", modelVersion="2.0")
        updating = asyncio.create_task(manager.update("m", None, ServingOptions(url="m.mar")))
        await engine.draining.wait()
        await manager.unregister("m")
        engine.let_go.set()
        await updating
        assert list((tmp_path / "scratch" / "models").iterdir()) == []
