"""The figures of the machine: true ones, from the first look on, of processes that are there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import psutil
import pytest

from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState, WorkerStatus
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.machine import Gpu, MachineFigures

from .test_catalogue import figure

KEY = ModelKey("m", "1.0")


class Watched(ServerMetrics):
    """``looks``: one for each time that all figures were brought up to date."""

    def __init__(self, **config: Any) -> None:
        super().__init__(MetricsConfig(**config))
        self.looks = asyncio.Semaphore(0)

    def show_memory(self, server: float, workers: Iterable[tuple[ModelKey, str, float]]) -> None:
        super().show_memory(server, workers)
        self.looks.release()


def status_of(*pids: int) -> ModelStatus:
    workers = tuple(
        WorkerStatus(id=str(number), state=WorkerState.READY, started=0.0, pid=pid)
        for number, pid in enumerate(pids, 9000)
    )
    return ModelStatus(key=KEY, workers=workers, wanted=len(workers), queued=0, queue_size=0)


def keep_a_core_busy(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(1000))


async def looked_at(shown: Watched, status: ModelStatus, gpus: Iterable[Gpu] = ()) -> None:
    running = asyncio.create_task(MachineFigures(shown, 60.0, lambda: [status], lambda: gpus).run())
    await shown.looks.acquire()
    running.cancel()


async def test_first_look_tells_what_the_machine_has() -> None:
    looked = threading.Event()
    spinning = asyncio.create_task(asyncio.to_thread(keep_a_core_busy, looked))
    await looked_at(shown := Watched(), status_of())
    looked.set()
    await spinning
    total = psutil.virtual_memory().total / 1024**2
    assert 0 < (figure(shown, "MemoryUsed", Level="Host") or 0) < total
    assert 0 < (figure(shown, "MemoryAvailable", Level="Host") or 0) < total
    disk = psutil.disk_usage("/")
    assert figure(shown, "DiskUsage", Level="Host") == pytest.approx(disk.used / 1024**3, rel=0.1)
    assert 0 < (figure(shown, "CPUUtilization", Level="Host") or 0) <= 100


async def test_memory_is_told_of_the_server_and_of_each_worker_that_lives() -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    await looked_at(shown := Watched(), status_of(os.getpid(), ended.pid))
    assert (figure(shown, "ts_process_memory_bytes", worker="") or 0) > 1e6
    assert (figure(shown, "ts_process_memory_bytes", worker="W-9000-m_1.0", model_name="m") or 0) > 1e6
    assert figure(shown, "ts_process_memory_bytes", worker="W-9001-m_1.0") is None


async def test_gpus_are_told_apart_by_their_number() -> None:
    gpus = [Gpu(0, 10, 1 * 1024**2, 4 * 1024**2), Gpu(1, 90, 3 * 1024**2, 4 * 1024**2)]
    await looked_at(shown := Watched(), status_of(), gpus)
    assert figure(shown, "GPUUtilization", DeviceId="1") == 90
    assert figure(shown, "GPUMemoryUsed", DeviceId="1") == 3
    assert figure(shown, "GPUMemoryUtilization", DeviceId="0") == 25


async def test_metrics_that_a_file_leaves_out_are_not_shown() -> None:
    await looked_at(shown := Watched(server_metrics=()), status_of())
    assert "CPUUtilization" not in shown.registry.render()


async def test_what_cannot_be_read_is_said_once_and_the_next_look_is_made(caplog: pytest.LogCaptureFixture) -> None:
    looks = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def broken() -> Iterator[Gpu]:
        loop.call_soon_threadsafe(looks.release)
        raise OSError("the driver is asleep")

    running = asyncio.create_task(MachineFigures(Watched(), 0.0, lambda: [status_of()], broken).run())
    for _ in range(3):
        await looks.acquire()
    running.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "The figures of the machine cannot be read: the driver is asleep"
    ]
