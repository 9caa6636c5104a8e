"""Figures of this machine as metrics: CPU, memory, disk, GPUs. Each function adds to ``system_metrics``."""

from __future__ import annotations

import inspect
import logging
from types import ModuleType

import psutil
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric

system_metrics: list[Metric] = []
dimension = [Dimension("Level", "Host")]

_MEGABYTE = 1024**2
_GIGABYTE = 1024**3


def cpu_utilization() -> None:
    _add("CPUUtilization", psutil.cpu_percent(), "percent")


def memory_used() -> None:
    _add("MemoryUsed", psutil.virtual_memory().used / _MEGABYTE, "MB")


def memory_available() -> None:
    _add("MemoryAvailable", psutil.virtual_memory().available / _MEGABYTE, "MB")


def memory_utilization() -> None:
    _add("MemoryUtilization", psutil.virtual_memory().percent, "percent")


def disk_used() -> None:
    _add("DiskUsage", psutil.disk_usage("/").used / _GIGABYTE, "GB")


def disk_utilization() -> None:
    _add("DiskUtilization", psutil.disk_usage("/").percent, "percent")


def disk_available() -> None:
    _add("DiskAvailable", psutil.disk_usage("/").free / _GIGABYTE, "GB")


def gpu_utilization(num_of_gpu: int) -> None:
    """Memory of each GPU, from torch; load as well where torch can ask the driver (needs ``pynvml``)."""
    if num_of_gpu <= 0:
        return
    import torch

    for index in range(min(num_of_gpu, torch.cuda.device_count())):
        free, total = torch.cuda.mem_get_info(index)
        used = total - free
        where = [*dimension, Dimension("DeviceId", index)]
        _add("GPUMemoryUtilization", 100 * used / total, "percent", where)
        _add("GPUMemoryUsed", used / _MEGABYTE, "MB", where)
        try:
            _add("GPUUtilization", torch.cuda.utilization(index), "percent", where)
        except (ImportError, RuntimeError) as error:
            logging.debug("No load figure for GPU %d: %s", index, error)


def collect_all(mod: ModuleType, num_of_gpu: int) -> None:
    """Call every collecting function of ``mod`` (this module) and log the figures, one line each."""
    for name, function in inspect.getmembers(mod, inspect.isfunction):
        if name.startswith("_") or name == "collect_all":
            continue
        function(num_of_gpu) if name == "gpu_utilization" else function()
    for metric in system_metrics:
        logging.info(str(metric))
    logging.info("")
    system_metrics.clear()


def _add(name: str, value: float, unit: str, dimensions: list[Dimension] | None = None) -> None:
    system_metrics.append(Metric(name, value, unit, dimensions or dimension))
