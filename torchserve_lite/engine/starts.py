"""Whose turn it is to start a worker: a few at a time, and one that keeps failing behind all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker, WorkerLauncher
from torchserve_lite.engine.slot import Slot


class Starts:
    """A ``WorkerLauncher`` that lets another one start at most ``at_once`` workers at the same time.

    Importing and loading take whole cores. So workers in a crash loop are tried again one after the other, each when no
    other worker is about to start: a broken model must not slow down the start of those that work.
    """

    def __init__(self, launch: WorkerLauncher, at_once: int) -> None:
        self._launch = launch
        self._places = asyncio.Semaphore(at_once)
        self._starting = 0  # workers that wait for a place, or have one
        self._quiet = asyncio.Event()  # none of these
        self._quiet.set()
        self._retrying = asyncio.Lock()

    @asynccontextmanager
    async def __call__(self, spec: ModelSpec, slot: Slot) -> AsyncIterator[Worker]:
        async with AsyncExitStack() as stack:
            async with self._retry() if slot.restarts.looping else self._start():
                worker = await stack.enter_async_context(self._launch(spec, slot))
            yield worker

    @asynccontextmanager
    async def _start(self) -> AsyncIterator[None]:
        self._starting += 1
        self._quiet.clear()
        try:
            async with self._places:
                yield
        finally:
            self._starting -= 1
            if not self._starting:
                self._quiet.set()

    @asynccontextmanager
    async def _retry(self) -> AsyncIterator[None]:
        async with self._retrying:
            await self._quiet.wait()
            yield
