"""What all launchers have in common: a process is started, and it is given its model."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from torchserve_lite.archive.config_message import to_message
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import ModelLocator, Worker
from torchserve_lite.engine.launchers.child import StartChild
from torchserve_lite.engine.launchers.process import ProcessWorker
from torchserve_lite.engine.launchers.worker_logs import LineReader, LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.messages import Load
from torchserve_lite.ipc.slabs import Slabs
from torchserve_lite.ipc.stages import StageMarker


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSetup:
    """What every launcher is told. ``threads``: intra-op threads for a worker of a model from now on."""

    config: WorkerConfig
    locate: ModelLocator
    slabs: Slabs
    threads: Callable[[ModelSpec], int]
    metric_line_parser: LineReader

    def interpreter(self, spec: ModelSpec) -> str:
        """The Python that must run the model's workers; empty: any."""
        return self.locate(spec).python or self.config.python

    def descriptors(self, link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> list[int]:
        """Those of a worker's process, in the order in which ``ipc/child.py`` takes them."""
        return [link.fileno(), stage.fd, self.slabs.fd, stdout.write_end, stderr.write_end]

    def import_folders(self, spec: ModelSpec) -> tuple[str, ...]:
        """Where its handler's imports look first: in the model's folder, then in what was installed for it. A
        ``path/file.py:function`` handler brings its own folder."""
        files, before_colon = self.locate(spec), spec.handler.split(":", 1)[0]
        own = (os.path.join(files.folder, os.path.dirname(before_colon)),) if "/" in before_colon else ()
        return (*own, files.folder, *files.python_path)


@asynccontextmanager
async def loaded_worker(
    setup: ProcessSetup, spec: ModelSpec, slot: Slot, start: StartChild, start_waits_for: Callable[[], str] = lambda: ""
) -> AsyncIterator[Worker]:
    """The whole of a launcher but how a process is started: entered, its handler is loaded; left, it is gone.

    ``start_waits_for`` says why a process that was to start in time has not.
    """
    files, config = setup.locate(spec), setup.config
    message = Load(
        spec=replace(spec, model_config=to_message(spec.model_config)),
        model_dir=files.folder,
        gpu_id=slot.gpu_id,
        limit_max_image_pixels=config.limit_max_image_pixels,
        decode_input_request=config.decode_input_request,
        ipex_enable=config.ipex_enable,
        ipex_gpu_enable=config.ipex_gpu_enable,
        v2_output_names=config.v2_output_names,
        max_response_size=config.max_response_size,
        whole_tracebacks=config.whole_tracebacks,
        threads=setup.threads(spec),
        python_path=setup.import_folders(spec),
        sequence_headers=config.sequence_headers,
        hidden_environment=config.hidden_environment,
        metrics=config.model_metrics,
    )
    process = ProcessWorker(
        f"W-{slot.id}-{spec.key}",
        start,
        setup.slabs,
        threads=lambda: setup.threads(spec),
        metric_line_parser=setup.metric_line_parser,
        start_timeout=spec.startup_timeout,
        start_waits_for=start_waits_for,
    )
    async with process as worker:
        await worker.load(message, spec.startup_timeout)
        yield worker
