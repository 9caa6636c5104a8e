"""How many workers a model gets between its bounds: the rule, and the loop that keeps it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.conftest import KEY, deployment_of
from tests.fake_engine import FakeEngine
from tests.virtual_time import virtual_time
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState, WorkerStatus
from torchserve_lite.errors import LoadFailed
from torchserve_lite.management.autoscaler import PERIOD, Autoscaler, room_for_workers
from torchserve_lite.management.autoscaling import CALM, STEP, WAITING, Bounds, Reason, Seen, Wanted, seen_of, wanted
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.registry import ModelRegistry

BOUNDS = Bounds(low=1, high=5)


def seen(**facts: object) -> Seen:
    """At 100 s: two workers without anything to do, since long ago."""
    usual: dict[str, object] = {
        "at": 100.0,
        "workers": 2,
        "ready": 2,
        "queued": 0,
        "batch_size": 4,
        "busy_seconds": 0.0,
        "load": 0.0,
        "waiting_since": None,
        "waited_at": 0.0,
        "changed_at": 0.0,
    }
    return Seen(**{**usual, **facts})  # type: ignore[arg-type]


LONG_WAIT = {"waiting_since": 100.0 - WAITING, "waited_at": 100.0, "load": 2.0}


@pytest.mark.parametrize(
    ("facts", "workers", "reason"),
    [
        pytest.param({}, 1, Reason.IDLE, id="fewer would do"),
        pytest.param({"load": 0.8}, 2, Reason.NONE, id="one alone would be too busy"),
        pytest.param({"waited_at": 100.0 - CALM + 0.1}, 2, Reason.NONE, id="a request has waited lately"),
        pytest.param({"changed_at": 100.0 - STEP + 0.1}, 2, Reason.NONE, id="one has just gone"),
        pytest.param({"workers": 1, "ready": 1}, 1, Reason.NONE, id="the least is kept"),
        pytest.param({**LONG_WAIT, "queued": 1}, 3, Reason.WAITING, id="one batch waits"),
        pytest.param({**LONG_WAIT, "queued": 100}, 4, Reason.WAITING, id="at most twice as many"),
        pytest.param({**LONG_WAIT, "queued": 100, "workers": 4, "ready": 4}, 5, Reason.WAITING, id="up to the most"),
        pytest.param({**LONG_WAIT, "queued": 100, "workers": 5, "ready": 5}, 5, Reason.NONE, id="not beyond the most"),
        pytest.param({**LONG_WAIT, "queued": 9, "ready": 1}, 2, Reason.NONE, id="the last ones still start"),
        pytest.param({**LONG_WAIT, "queued": 9, "changed_at": 99.9}, 2, Reason.NONE, id="the last ones just started"),
        pytest.param({**LONG_WAIT, "queued": 9, "failed_at": 80.0}, 2, Reason.NONE, id="new ones failed lately"),
        pytest.param({**LONG_WAIT, "queued": 9, "room": 1}, 3, Reason.WAITING, id="memory for one more"),
        pytest.param({**LONG_WAIT, "queued": 9, "room": 0}, 2, Reason.MEMORY, id="no memory"),
        pytest.param({"queued": 9, "waiting_since": 99.9, "waited_at": 100.0}, 2, Reason.NONE, id="a short wait"),
        pytest.param({"workers": 7, "ready": 7}, 5, Reason.BOUNDS, id="above the most"),
        pytest.param({"workers": 0, "ready": 0}, 0, Reason.NONE, id="none on purpose"),
    ],
)
def test_number_of_workers_follows_the_load(facts: dict[str, object], workers: int, reason: Reason) -> None:
    assert wanted(BOUNDS, seen(**facts), 100.0) == Wanted(workers=workers, reason=reason)


def test_last_worker_is_not_given_up() -> None:
    assert wanted(Bounds(low=0, high=5), seen(workers=1, ready=1), 100.0).workers == 1


def status(**facts: object) -> ModelStatus:
    worker = WorkerStatus(id="9000", state=WorkerState.READY, started=0.0)
    usual: dict[str, object] = {"key": KEY, "workers": (worker,) * 2, "wanted": 2, "queued": 0, "queue_size": 100}
    return ModelStatus(**{**usual, **facts})  # type: ignore[arg-type]


def test_request_that_waits_beside_an_idle_worker_waits_for_its_batch_only() -> None:
    assert seen_of(status(queued=3, busy=1), 4, None, 100.0).waiting_since is None
    assert seen_of(status(queued=3, busy=2), 4, None, 100.0).waiting_since == 100.0


def test_wait_counts_from_its_beginning_and_ends_with_a_pause() -> None:
    first = seen_of(status(queued=3, busy=2), 4, None, 100.0)
    second = seen_of(status(queued=1, busy=2), 4, first, 101.0)
    assert second.waiting_since == 100.0
    assert seen_of(status(), 4, second, 102.0).waiting_since is None


def test_batch_size_is_that_of_the_archive_that_is_served_now() -> None:
    first = seen_of(status(queued=3, busy=2), 4, None, 100.0)
    assert seen_of(status(queued=3, busy=2), 1, first, 100.5).batch_size == 1


def test_load_is_the_mean_of_what_workers_spent_on_batches() -> None:
    one = seen_of(status(busy=2), 4, None, 100.0)
    for second in range(1, 60):
        one = seen_of(status(busy_seconds=0.5 * second), 4, one, 100.0 + second)
    assert one.load == pytest.approx(0.5, abs=0.01)


class LoadedEngine(FakeEngine):
    """``waiting`` requests wait and keep as many workers busy as there are; ``refused`` were, since they may not."""

    waiting = 0
    refused = 0

    def status(self, key: ModelKey) -> ModelStatus:
        known = super().status(key)
        busy = known.wanted if self.waiting else 0
        return replace(known, queued=self.waiting, busy=busy, refused=self.refused)


@asynccontextmanager
async def autoscaled(folder: Path, room: int | None = None) -> AsyncIterator[tuple[LoadedEngine, list[Reason]]]:
    """A model with one worker that may have five; the reasons of what has been decided."""
    engine, registry, reasons = LoadedEngine(), ModelRegistry(), list[Reason]()
    registry.add(deployment_of(min_workers=1, max_workers=5))
    engine.workers[KEY] = 1
    store = ModelStore(folder=None, scratch=folder)
    manager = ModelManager(engine, store, registry, WorkerConfig(), default_workers=1, environments=folder)

    async def memory(pids: Sequence[int]) -> int | None:
        return room

    async with manager:
        scaler = Autoscaler(manager, engine, lambda key, reason: reasons.append(reason), memory)
        task = asyncio.create_task(scaler.run())
        yield engine, reasons
        task.cancel()


@virtual_time
async def test_model_grows_under_load_and_shrinks_after_it(tmp_path: Path) -> None:
    async with autoscaled(tmp_path) as (engine, reasons):
        engine.waiting = 50
        await asyncio.sleep(5)
        assert engine.workers[KEY] == 5
        engine.waiting = 0
        await asyncio.sleep(30)
        assert engine.workers[KEY] == 1
        assert set(reasons) == {Reason.WAITING, Reason.IDLE}


@virtual_time
async def test_model_whose_requests_may_not_wait_grows_when_they_are_refused_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It never grew: nothing waited. A client comes again after a second, as its answer tells it."""
    caplog.set_level("INFO")
    async with autoscaled(tmp_path) as (engine, reasons):
        for _ in range(5):
            engine.refused += 2
            await asyncio.sleep(1)
        assert engine.workers[KEY] == 5
        assert "requests are refused that may not wait (useJobTicket)" in caplog.text
        await asyncio.sleep(30)
        assert engine.workers[KEY] == 1
        assert set(reasons) == {Reason.WAITING, Reason.IDLE}


@virtual_time
async def test_requests_that_were_refused_long_ago_are_no_load(tmp_path: Path) -> None:
    """Nor is a burst of which nobody comes again; and a pool that begins to count anew takes nothing away."""
    async with autoscaled(tmp_path) as (engine, reasons):
        for refused in (7, 14, 2):
            engine.refused = refused
            await asyncio.sleep(5)
        assert (engine.workers[KEY], reasons) == (1, [])


@virtual_time
async def test_model_grows_no_further_than_there_is_memory_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with autoscaled(tmp_path, room=0) as (engine, reasons):
        engine.waiting = 50
        await asyncio.sleep(5)
        assert (engine.workers[KEY], reasons) == (1, [Reason.MEMORY])
        assert "no memory for another worker" in caplog.text


@virtual_time
async def test_workers_that_cannot_start_are_given_up_for_a_while(tmp_path: Path) -> None:
    async with autoscaled(tmp_path) as (engine, reasons):
        engine.waiting = 50
        engine.failures[KEY.name] = LoadFailed("no more GPU memory")
        await asyncio.sleep(10)
        assert (engine.workers[KEY], len(reasons)) == (1, 1)
        engine.failures.clear()
        await asyncio.sleep(30)
        assert engine.workers[KEY] == 5


@virtual_time
async def test_autoscaling_can_be_switched_off_for_a_model(tmp_path: Path) -> None:
    engine, registry = LoadedEngine(), ModelRegistry()
    registry.add(deployment_of(min_workers=1, max_workers=5, autoscale=False))
    engine.workers[KEY], engine.waiting = 1, 50
    store = ModelStore(folder=None, scratch=tmp_path)
    async with ModelManager(
        engine, store, registry, WorkerConfig(), default_workers=1, environments=tmp_path
    ) as manager:
        task = asyncio.create_task(Autoscaler(manager, engine).run())
        await asyncio.sleep(20 * PERIOD)
        task.cancel()
        assert engine.workers[KEY] == 1


def test_room_is_what_the_container_has_left(tmp_path: Path) -> None:
    size = psutil.Process().memory_full_info().uss
    limit = size * 10
    (tmp_path / "memory.max").write_text(str(limit))
    (tmp_path / "memory.current").write_text(str(limit // 2))
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {limit // 10}\n")
    room = room_for_workers([os.getpid()], tmp_path)
    assert room is not None
    assert 3 <= room <= 5  # half of it and a tenth that can be freed, less the tenth that is spared; we grow meanwhile


def test_room_is_not_known_without_workers(tmp_path: Path) -> None:
    assert room_for_workers([], tmp_path) is None
