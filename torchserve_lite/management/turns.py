"""Changes of deployments take turns, and go on when whoever asked for them has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from torchserve_lite.errors import ServingError, ShuttingDown, UnregisteredMeanwhile
from torchserve_lite.management.deployments import Deployment, DeploymentState

T = TypeVar("T")

_INTERRUPTED_WITHIN = 5.0  # seconds; a disk that does not answer must not hold up the stop

log = logging.getLogger(__name__)


class Turns:
    """The owner of all changes that are under way. Use as an async context manager: left, they have been cancelled."""

    def __init__(self) -> None:
        self._background = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocking: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Turns:
        await self._background.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._background.__aexit__(None, None, None)
        if self._blocking:  # whoever waited for them may have been cancelled; what they unpack is removed after us
            await asyncio.wait(self._blocking, timeout=_INTERRUPTED_WITHIN)

    async def in_turn(self, deployment: Deployment, change: Callable[[], Awaitable[T]], failure: str = "") -> T:
        return await self.owned(self._told(deployment, change, failure))

    async def _told(self, deployment: Deployment, change: Callable[[], Awaitable[T]], failure: str) -> T:
        """In its turn. ``failure``: the line that the log has when it fails; "": whoever asks writes one."""
        try:
            return await self.take(deployment, change)
        except ServingError as error:
            if failure and not deployment.is_draining:  # else it is no news: somebody has unregistered it
                log.error(failure, deployment.name, error)
            raise

    async def take(self, deployment: Deployment, change: Callable[[], Awaitable[T]]) -> T:
        async with deployment.lock:
            if deployment.is_draining:
                raise UnregisteredMeanwhile(deployment.name)
            if deployment.state is DeploymentState.FAILED:
                raise deployment.refusal()  # the engine does not know it
            deployment.work = cast("asyncio.Task[None]", asyncio.current_task())
            try:
                return await change()
            except asyncio.CancelledError:
                if not deployment.is_draining:
                    raise
                raise UnregisteredMeanwhile(deployment.name) from None
            finally:
                deployment.work = None

    async def owned(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it to its end, or to the server's, even when whoever waits for it here has gone."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(lambda settled: settled.exception())  # it is no news that nobody has waited

        async def run() -> None:
            try:
                outcome.set_result(await work)
            except Exception as error:
                outcome.set_exception(error)
            except asyncio.CancelledError:
                outcome.set_exception(ShuttingDown())
                raise

        self._start(run())
        return await asyncio.shield(outcome)

    def in_background(self, deployment: Deployment, change: Callable[[], Awaitable[object]], failure: str) -> None:
        async def report() -> None:
            try:
                with suppress(ServingError):
                    await self._told(deployment, change, failure)
            except Exception as error:
                log.exception(failure, deployment.name, error)

        self._start(report())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._background.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def in_thread(self, work: Callable[..., T], *args: object, **options: object) -> T:
        """What blocks, and is interrupted when we are left."""
        future = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **options))
        self._blocking.add(future)
        future.add_done_callback(self._blocking.discard)
        return await asyncio.shield(future)
