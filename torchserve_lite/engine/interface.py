"""The two seams: what the data plane asks of an engine, and what a pool asks of a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.errors import WorkerDied
from torchserve_lite.ipc.messages import Chunk, Result

Update = Chunk | Result


class Engine(Protocol):
    """Takes jobs for any model and owns the pools that run them."""

    async def load(self, spec: ModelSpec, workers: int) -> None:
        """Starts ``workers`` workers and returns when all of them are ready; LoadFailed at the first failure.

        A version that is served already is replaced when the new workers are ready, and not before.
        """

    async def scale(self, key: ModelKey, workers: int) -> None:
        """As ``load``, for a pool that exists; fewer workers are retired between batches."""

    async def unload(self, key: ModelKey) -> None:
        """Retires all workers and forgets the pool."""

    def submit(self, job: Job) -> None:
        """Queues the job, or raises QueueFull, NoWorkers, ModelFailed or (no ``load`` so far) ModelLoading."""

    def status(self, key: ModelKey) -> ModelStatus:
        """Also of a model that has not begun to load: it has no workers."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies unpacked on this machine, and what runs it. ``python``: an interpreter other than ours."""

    folder: str
    python: str = ""
    python_path: tuple[str, ...] = ()


class Worker(Protocol):
    """One loaded handler."""

    pid: int | None

    def predict(self, batch: Sequence[Job]) -> AsyncGenerator[Update, None]:
        """Runs a batch: any number of Chunks, then one Result. WorkerDied when it ends instead.

        May be called again before the end only as often as the model has lanes.
        """

    def cancel(self, job: Job) -> None:
        """Nobody waits for this running job any more."""

    def never_began(self, job: Job) -> bool:
        """Whether it died before it took up the batch of this job, which may therefore run elsewhere."""

    async def watch(self) -> None:
        """Waits; raises WorkerDied when the worker is gone."""

    @property
    def death(self) -> WorkerDied | None:
        """Why it died, once it has."""


WorkerLauncher = Callable[[ModelSpec, str, int | None], AbstractAsyncContextManager[Worker]]
"""Starts a worker of a model, with an id for the logs, on a device (GPU id or None).

Entered: loaded and ready. Left: gone.
"""

ModelLocator = Callable[[ModelSpec], ModelFiles]
"""Finds the unpacked files of a model on this machine."""
