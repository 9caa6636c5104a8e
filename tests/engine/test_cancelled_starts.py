"""A start of a worker that is cancelled at any of its awaits: each thing that it took is given back, once.

On the event loop of the server as well as on Python's own. They differ in what becomes of a descriptor that was being
handed over when its caller was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

import psutil
import pytest
import uvloop

from tests.conftest import NO_SLABS
from tests.engine.serving import MODELS, spec_for
from tests.engine.test_workers import every_launcher
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.engine.launchers import launcher as launcher_of
from torchserve_lite.engine.launchers.loading import ProcessSetup
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot

SENTINEL = "sentinel"


class Cancelling:
    """Runs work and cancels it at its ``number``-th await: while that waits, or ``too_late``, in the moment in which it
    ends, when its result is lost."""

    def __init__(self, number: int, *, too_late: bool) -> None:
        self.reached = False
        self._left = number
        self._too_late = too_late

    @types.coroutine
    def run(self, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        resume: Callable[[], Any] = partial(work.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self._cancel_at(awaited)
            try:
                yield awaited
            except BaseException as error:
                resume = partial(work.throw, error)
            else:
                resume = partial(work.send, None)

    def _cancel_at(self, awaited: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.reached = True
        if self._too_late and awaited is not None:
            awaited.add_done_callback(lambda _: task.cancel())  # called before the task is woken
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


class Sentinels:
    """Descriptors that are opened at each turn of the loop: whoever closes one of his own twice closes one of these."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._first = os.memfd_create(SENTINEL)
        self._opened = [self._first]
        self._turn = self._loop.call_soon(self._open)

    def _open(self) -> None:
        if len(self._opened) < 500:
            self._opened.append(os.dup(self._first))
        self._turn = self._loop.call_soon(self._open)

    def close(self) -> None:
        self._turn.cancel()
        for descriptor in self._opened:
            assert SENTINEL in os.readlink(f"/proc/self/fd/{descriptor}")
        for descriptor in self._opened:
            os.close(descriptor)


def held() -> tuple[list[str], set[psutil.Process]]:
    """What this process has: open descriptors by what they are, and processes below it."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder's own, which is closed again
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(name for name in found if SENTINEL not in name), set(psutil.Process().children(recursive=True))


async def one_life(launcher: str) -> None:
    files = ModelFiles(str(MODELS / "obedient"))
    setup = ProcessSetup(
        config=WorkerConfig(launcher=launcher),
        locate=lambda spec: files,
        slabs=NO_SLABS,
        threads=lambda spec: 1,
        metric_line_parser=lambda line: False,
    )
    spec = spec_for("obedient")
    async with launcher_of(setup)(spec, Slot("9000", None, Restarts(spec.recovery))):
        pass


async def cancel_at_each_await(launcher: str, *, too_late: bool) -> int:
    """Returns how many there were."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await one_life(launcher)
    for _ in range(10):  # the loop closes a transport in turns to come
        await asyncio.sleep(0)
    before = held()  # once: a process that was asked for too late to be seen must have gone after the next attempt
    for number in itertools.count(1):
        attempt, sentinels = Cancelling(number, too_late=too_late), Sentinels()
        life = asyncio.create_task(attempt.run(one_life(launcher)))
        await asyncio.wait([life])
        try:
            async with asyncio.timeout(30):
                while held() != before:  # what was killed ends a little later, as does the thread that asked for it
                    await asyncio.to_thread(os.sched_yield)
        except TimeoutError:
            assert held() == before, f"cancelled at await {number}"
        sentinels.close()
        assert life.cancelled() == attempt.reached, life
        assert complaints == []
        if not attempt.reached:
            return number - 1
    raise AssertionError


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("too_late", [False, True], ids=["while it waits", "as it ends"])
@every_launcher
def test_worker_that_is_cancelled_at_any_await_gives_back_each_thing_it_took_once(
    launcher: str, too_late: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Scaling up and down at once closed descriptors twice, until uvloop aborted the server."""
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(cancel_at_each_await(launcher, too_late=too_late)) > 3
