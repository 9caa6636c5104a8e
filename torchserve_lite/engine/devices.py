"""What this machine (or container) offers workers: cores and GPUs. Found out without importing torch."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
from pathlib import Path

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.errors import ConfigurationError

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or "200000 100000": microseconds per period (cgroup v2)


def usable_cores() -> int:
    """Cores this process may use: the scheduler's mask, and no more than the container's CPU quota."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mask, _quota(_CPU_QUOTA) or mask))


def _quota(file: Path) -> int | None:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else math.ceil(int(quota) / int(period))


def count_gpus(visible: str | None) -> int:
    """``visible``: the value of CUDA_VISIBLE_DEVICES, None when it is not set (then nvidia-smi is asked)."""
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


class Devices:
    """Hands out GPUs round robin: over all models, or over a model's own ``deviceIds``."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self._next = itertools.count()
        self._next_of_model: dict[str, itertools.count[int]] = {}

    def assign(self, spec: ModelSpec) -> int | None:
        """The GPU id for a new worker of this model, None for the CPU. The id stays with the slot over restarts."""
        if spec.device.type == "cpu" or self.gpus == 0:
            return None
        if not spec.device.ids:
            return next(self._next) % self.gpus
        self.check(spec)
        turn = next(self._next_of_model.setdefault(str(spec.key), itertools.count()))
        return spec.device.ids[turn % len(spec.device.ids)]

    def check(self, spec: ModelSpec) -> None:
        """ConfigurationError when the model config names a GPU that is not there."""
        missing = [device for device in spec.device.ids if not 0 <= device < self.gpus]
        if missing and self.gpus:
            raise ConfigurationError(
                f"deviceIds of {spec.key} names {missing}, but only GPUs 0 to {self.gpus - 1} can be used "
                "(number_of_gpu and CUDA_VISIBLE_DEVICES limit them)."
            )
