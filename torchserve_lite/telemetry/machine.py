"""Figures of the machine and of this server's processes: CPU, memory, disk, GPUs. No process is started for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from torchserve_lite.core.models import ModelKey, ModelStatus
from torchserve_lite.telemetry.catalogue import MachineFigure, ServerMetrics

log = logging.getLogger(__name__)

_MEGABYTE = 1024**2
_GIGABYTE = 1024**3
_SHORTEST = 1.0  # seconds between two looks: how busy a CPU is can be told of a span of time only


@dataclass(frozen=True, slots=True)
class Gpu:
    """Of one device: shares in percent, memory in bytes."""

    index: int
    busy: float
    memory_used: float
    memory_total: float


class MachineFigures:
    """Looks at the machine every ``interval`` seconds and brings the gauges of ``metrics`` up to date.

    ``statuses`` gives the models, whose workers' memory is among the figures; ``gpus`` the devices, if there are any.
    """

    def __init__(
        self,
        metrics: ServerMetrics,
        interval: float,
        statuses: Callable[[], Iterable[ModelStatus]],
        gpus: Callable[[], Iterable[Gpu]] = tuple,
    ) -> None:
        self._metrics = metrics
        self._interval = interval
        self._statuses = statuses
        self._gpus = gpus
        psutil.cpu_percent()  # from here on counts what the next look tells

    async def run(self) -> None:
        """Until it is cancelled. What cannot be read is left out, and said once.

        The first looks come in quick succession: that is when models load.
        """
        wait = _SHORTEST
        said = ""
        while True:
            await asyncio.sleep(wait)
            workers = [
                (status.key, worker.id, worker.pid)
                for status in self._statuses()
                for worker in status.workers
                if worker.pid is not None
            ]
            try:  # in a thread: a file system that hangs must not keep the server from anything else
                busy = psutil.cpu_percent()  # here: it counts from the last call of the same thread
                figures, memory = await asyncio.to_thread(self._look, busy, workers)
            except (OSError, psutil.Error) as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("The figures of the machine cannot be read: %s", error)
            else:
                self._metrics.show_machine(figures)
                self._metrics.show_memory(*memory)
            wait = max(min(2 * wait, self._interval), _SHORTEST)

    def _look(
        self, busy: float, workers: Sequence[tuple[ModelKey, str, int]]
    ) -> tuple[Sequence[MachineFigure], tuple[float, Sequence[tuple[ModelKey, str, float]]]]:
        host = (("Level", "Host"),)
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        figures: list[MachineFigure] = [
            ("CPUUtilization", host, busy),
            ("MemoryUsed", host, memory.used / _MEGABYTE),
            ("MemoryAvailable", host, memory.available / _MEGABYTE),
            ("MemoryUtilization", host, memory.percent),
            ("DiskUsage", host, disk.used / _GIGABYTE),
            ("DiskAvailable", host, disk.free / _GIGABYTE),
            ("DiskUtilization", host, disk.percent),
        ]
        for gpu in self._gpus():
            device = (*host, ("DeviceId", str(gpu.index)))
            figures.append(("GPUUtilization", device, gpu.busy))
            figures.append(("GPUMemoryUsed", device, gpu.memory_used / _MEGABYTE))
            figures.append(("GPUMemoryUtilization", device, 100 * gpu.memory_used / gpu.memory_total))
        return figures, (memory_of(psutil.Process().pid), list(_with_memory(workers)))


def _with_memory(workers: Sequence[tuple[ModelKey, str, int]]) -> Iterator[tuple[ModelKey, str, float]]:
    for key, name, pid in workers:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            yield key, name, memory_of(pid)


def memory_of(pid: int) -> float:
    """Bytes that go when the process goes: pages that processes share are split between them, where the system says so.
    Workers share torch and, when they were forked, their model."""
    try:
        return float(psutil.Process(pid).memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return float(psutil.Process(pid).memory_info().rss)


@contextlib.contextmanager
def nvidia_gpus(there: int) -> Iterator[Callable[[], Iterable[Gpu]]]:
    """The GPUs of this machine as its driver tells of them, when there are any and nvidia-ml-py is installed."""
    if not there:
        yield tuple
        return
    try:
        import pynvml
    except ImportError:
        log.warning("The metrics of GPUs are left out: pip install nvidia-ml-py, which asks the driver for them.")
        yield tuple
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.warning("The metrics of GPUs are left out: their driver says %s.", error)
        yield tuple
        return
    try:
        yield lambda: _ask_driver(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _ask_driver(driver: Any) -> Iterator[Gpu]:
    for index in range(driver.nvmlDeviceGetCount()):
        device = driver.nvmlDeviceGetHandleByIndex(index)
        try:
            memory = driver.nvmlDeviceGetMemoryInfo(device)
            yield Gpu(index, driver.nvmlDeviceGetUtilizationRates(device).gpu, memory.used, memory.total)
        except driver.NVMLError as error:  # a part of a GPU (MIG) has no load of its own
            log.debug("No figures of GPU %d: %s", index, error)
