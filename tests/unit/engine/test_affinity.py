"""Workers are bound to cores where that is safe, and let go when it no longer is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NO_SLABS, spec_of
from tests.virtual_time import virtual_time
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import DevicePolicy, ModelKey
from torchserve_lite.engine import devices
from torchserve_lite.engine.affinity import WorkerAffinity, cores_to_share_out
from torchserve_lite.engine.devices import Devices
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.engine.local import LocalEngine

from .fake_workers import FakeLauncher

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux only")

ALL = tuple(sorted(os.sched_getaffinity(0)))
WAIT = "import sys; print(flush=True); sys.stdin.read()"
WITH_A_THREAD = "import sys, threading; threading.Thread(target=sys.stdin.read).start(); print(flush=True)"


class Processes:
    """Children that wait until they are let go."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, code: str = WAIT) -> int:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    def end(self) -> None:
        for child in self._children:
            child.communicate()


@pytest.fixture
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    found.end()


def cores_of(pid: int) -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(pid)))


def test_each_worker_has_a_core_of_its_own_until_it_is_let_go(processes: Processes) -> None:
    affinity, workers = WorkerAffinity(ALL), [processes.start() for _ in ALL]
    affinity.bind(workers)
    assert sorted(cores_of(pid) for pid in workers) == [(core,) for core in ALL]
    affinity.bind([])
    assert [cores_of(pid) for pid in workers] == [ALL] * len(ALL)


def test_worker_that_comes_in_the_place_of_another_has_the_core_that_is_free(processes: Processes) -> None:
    affinity, workers = WorkerAffinity(ALL), [processes.start() for _ in ALL]
    affinity.bind(workers)
    core, stays = affinity.bound[workers[0]], affinity.bound[workers[-1]]
    new = processes.start()
    affinity.bind([*workers[1:], new])
    assert (cores_of(new), affinity.bound[workers[-1]], cores_of(workers[0])) == (
        (core,),
        stays if len(ALL) > 1 else core,
        ALL,
    )


def test_nobody_is_bound_when_there_are_more_workers_than_cores(processes: Processes) -> None:
    affinity, workers = WorkerAffinity(ALL[:1]), [processes.start() for _ in range(2)]
    affinity.bind(workers[:1])
    affinity.bind(workers)
    assert not affinity.bound
    assert cores_of(workers[0]) == ALL[:1]  # of the cores that are ours


def test_worker_whose_handler_has_started_threads_is_not_bound(processes: Processes) -> None:
    affinity, pid = WorkerAffinity(ALL), processes.start(WITH_A_THREAD)
    affinity.bind([pid])
    assert (affinity.bound, cores_of(pid)) == ({}, ALL)


def test_worker_that_has_just_ended_harms_nobody(processes: Processes) -> None:
    affinity, pid = WorkerAffinity(ALL), processes.start()
    affinity.bind([pid])
    processes.end()
    affinity.bind([pid])
    affinity.bind([])
    assert not affinity.bound


@pytest.mark.parametrize(
    ("mask", "quota", "cores"),
    [
        pytest.param({0, 1, 2, 3}, "max 100000", (0, 1, 2, 3), id="all of the machine"),
        pytest.param({0, 1, 2, 3}, "400000 100000", (0, 1, 2, 3), id="a quota that is all of it"),
        pytest.param({0, 1}, "max 100000", (), id="an operator has chosen cores"),
        pytest.param({0, 1, 2, 3}, "350000 100000", (), id="a part of a core less"),
    ],
)
def test_cores_are_shared_out_where_nobody_else_has_divided_them_up(
    mask: set[int], quota: str, cores: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(devices, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert cores_to_share_out() == cores


class NotedAffinity(WorkerAffinity):
    """Two cores; ``binding`` are the workers that should have one."""

    def __init__(self) -> None:
        super().__init__((0, 1))
        self.binding: tuple[int, ...] = ()

    def bind(self, pids: object) -> None:
        assert isinstance(pids, tuple)
        self.binding = pids


def engine_with(affinity: WorkerAffinity, gpus: int = 0) -> LocalEngine:
    found = Devices(gpus)
    engine = LocalEngine(
        WorkerConfig(), lambda spec: ModelFiles("."), found, cores=2, slabs=NO_SLABS, affinity=affinity
    )
    engine._launch = FakeLauncher()
    return engine


@virtual_time
async def test_workers_are_bound_while_one_model_has_as_many_as_there_are_cores() -> None:
    affinity = NotedAffinity()
    async with engine_with(affinity) as engine:
        one, other = spec_of(), spec_of(key=ModelKey("other", "1.0"))
        seen = []
        for change in (
            engine.load(one, 2),
            engine.scale(one.key, 1),
            engine.scale(one.key, 2),
            engine.load(other, 0),
            engine.scale(other.key, 1),
            engine.scale(other.key, 0),
            engine.scale(one.key, 3),
        ):
            await change
            seen.append(len(affinity.binding))
        assert seen == [2, 0, 2, 2, 0, 2, 0]


@virtual_time
async def test_worker_that_takes_a_dead_ones_place_is_bound() -> None:
    affinity = NotedAffinity()
    async with engine_with(affinity) as engine:
        await engine.load(spec_of(), 2)
        before = affinity.binding
        engine._launch.workers[0].die()  # type: ignore[attr-defined] # a fake launcher
        await asyncio.sleep(10)
        assert (len(affinity.binding), set(affinity.binding) & set(before)) == (2, set(before[1:]))


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"lanes": 64}, id="many batches at once"),
        pytest.param({"intra_op_threads": 2}, id="several threads a worker"),
        pytest.param({"parallel_type": "tp"}, id="a model over several processes"),
        pytest.param({"device": DevicePolicy(type="gpu")}, id="on a GPU"),
    ],
)
@virtual_time
async def test_workers_that_want_more_than_a_core_are_not_bound(facts: dict[str, object]) -> None:
    affinity = NotedAffinity()
    async with engine_with(affinity, gpus=1 if "device" in facts else 0) as engine:
        await engine.load(spec_of(**facts), 2)
        assert affinity.binding == ()
