"""What this machine (or container) offers workers: cores and GPUs. Found out without importing torch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.programs import ends_with_us
from torchserve_lite.errors import ConfigurationError

_DRIVER_ANSWERS_IN = 5.0  # seconds
_LONGEST_LISTING = 1024 * 1024
_GPU_LINE = re.compile(rb"^GPU \d+:", re.MULTILINE)
_NO_GPU = re.compile(rb"no devices", re.IGNORECASE)  # a machine with the driver's tools and without a GPU
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or "200000 100000": microseconds per period (cgroup v2)
_CPU_QUOTA_OF_V1 = tuple(Path("/sys/fs/cgroup/cpu") / f"cpu.cfs_{name}_us" for name in ("quota", "period"))  # or "-1"

log = logging.getLogger(__name__)


def usable_cores() -> int:
    """Cores this process may use: the scheduler's mask, and no more than the container's CPU quota."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mask, math.ceil(cpu_quota() or mask)))


def cpu_quota() -> float | None:
    """How many cores' worth of time the container has; None when it has all of it."""
    try:
        if _CPU_QUOTA.exists():
            quota, period = _CPU_QUOTA.read_text().split()
        else:
            quota, period = (file.read_text() for file in _CPU_QUOTA_OF_V1)
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def count_gpus(visible: str | None) -> int:
    """``visible``: the value of CUDA_VISIBLE_DEVICES, None when it is not set (then nvidia-smi is asked)."""
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listing = _listing("nvidia-smi", "-L")
        gpus = len(_GPU_LINE.findall(listing))
        if not gpus and listing.strip() and not _NO_GPU.search(listing):
            raise OSError(f"nvidia-smi lists none and says: {_first_line(listing)}")
        return gpus
    except OSError as error:
        log.warning(
            "The GPUs cannot be counted, so models run on the CPU: %s. Mend the driver, or set CUDA_VISIBLE_DEVICES.",
            error,
        )
        return 0


def _listing(*command: str) -> bytes:
    """What a command prints. OSError when it fails, prints without end, or is not done in ``_DRIVER_ANSWERS_IN``.

    A process that hangs in the driver cannot even be killed, so nothing here waits long for the end of one.
    """
    deadline = time.monotonic() + _DRIVER_ANSWERS_IN
    process = subprocess.Popen(
        ends_with_us(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    output = b""
    with process.stdout as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        try:
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                piece = os.read(pipe.fileno(), 65536)
                output += piece
                if not piece or len(output) > _LONGEST_LISTING:
                    break
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)  # else it stays a zombie
            raise TimeoutError(f"{command[0]} gave no answer in {_DRIVER_ANSWERS_IN:g} s") from None
    if code != 0:
        raise OSError(f"{command[0]} ended with code {code} ({_first_line(output)})")
    return output


def _first_line(output: bytes) -> str:
    """Quoted, with control characters made visible: it goes into a log line."""
    return repr(output.decode("utf-8", "replace").strip().partition("\n")[0][:200])


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


class CoreShares:
    """How many intra-op threads a worker of a model gets from now on; 0 leaves torch's own choice.

    ``workers`` of all models share the ``cores``. Not ``shared``: the operator has decided (OMP_NUM_THREADS).
    """

    def __init__(self, cores: int, shared: bool) -> None:
        self.workers = 1
        self._cores = cores
        self._shared = shared

    def __call__(self, spec: ModelSpec) -> int:
        if spec.intra_op_threads is not None:
            return spec.intra_op_threads
        return max(1, self._cores // max(1, self.workers)) if self._shared else 0
