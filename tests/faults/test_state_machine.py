"""A server that is scaled, killed, reloaded and asked at random, in orders that nobody thought of.

After each of the random lives every request has had exactly one answer, the management API tells of the processes that
exist, and the server holds what it held before. ``STATE_MACHINE_SECONDS=600`` looks longer, each time at other lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.e2e.server import PATIENCE, Server, running
from tests.faults.staged import Asked, Stages, staged

_SECONDS = float(os.environ.get("STATE_MACHINE_SECONDS", "60"))
_LIVES = max(2, int(_SECONDS / 2))
# Of the server's resident memory. Allocators keep some of what was used once; a worker that was not let go holds a
# receive buffer of 256 KiB alone, and there are hundreds in a run.
_MEMORY = 32 << 20
CONFIG = "minWorkers: 1\nmaxWorkers: 3\nautoscale: false\nbatchSize: 2\nmaxBatchDelay: 5\nmaxRetryTimeoutInSec: 600\n"


@dataclass
class Place:
    """The server that all lives share, and the loop that it is talked to in."""

    runner: asyncio.Runner
    server: Server
    stages: Stages
    folder: Path
    others: set[psutil.Process]  # its processes that are no workers
    ends: float
    bodies: int = 0
    reloads: int = 0

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE):
                await work

        self.runner.run(bounded())

    def run_in_time(self, work: Coroutine[Any, Any, None]) -> None:
        """Nothing any more when the time is over. Not by a rule's precondition: what hypothesis draws may depend on
        what it has drawn before, and on nothing else."""
        if time.monotonic() < self.ends:
            self.run(work)
        else:
            work.close()

    async def scaled(self, workers: int) -> None:
        """Waits until it has that many. A start may fail meanwhile, and is tried again: its worker was killed."""
        while (await self.server.put(f"/models/m?min_worker={workers}&max_worker={workers}&synchronous=true"))[
            0
        ] != 200:
            pass

    async def workers(self) -> set[int]:
        return set(await self.server.worker_pids("m"))

    async def watched(self) -> None:
        """Until the server sees changes of its store, for which it opens descriptors some time after its start."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    return await self.changed()

    async def changed(self) -> None:
        """The model's archive, and its workers with it."""
        handler = self.folder / "store" / "m" / "handler.py"
        self.reloads += 1
        seen = len(self.server.lines)
        handler.write_text(handler.read_text() + f"# {self.reloads}\n")
        await self.server.line("Model m.* is reloaded|Model m.* has changed but does not load", after=seen)

    def processes(self) -> set[int]:
        return {process.pid for process in set(self.server.family()) - self.others}

    def held(self) -> tuple[Counter[str], int, int, set[str]]:
        """Descriptors by kind, how many processes, how much lies in the folder for temporary files, and shared memory.
        Clients' connections are left out: they end when their clients like."""
        pid = self.server.process.pid
        clients = {each.fd for each in psutil.Process(pid).net_connections("inet") if each.status != psutil.CONN_LISTEN}
        descriptors = [fd for fd in os.scandir(f"/proc/{pid}/fd") if int(fd.name) not in clients]
        kinds = Counter(os.readlink(fd.path).partition(":")[0] for fd in descriptors)
        temporary = len([path for path in (self.folder / "tmp").rglob("*") if path.name != "__pycache__"])
        return kinds, len(self.server.family()), temporary, set(os.listdir("/dev/shm"))

    async def becomes(self, true: Callable[[], bool], what: Callable[[], object]) -> None:
        """What was killed or closed is gone a little later."""
        patience = time.monotonic() + 20
        while not true():
            assert time.monotonic() < patience, what()
            await asyncio.to_thread(os.sched_yield)


class Life(RuleBasedStateMachine):
    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.wanted = 1
        self.asked: list[tuple[str, Asked]] = []
        self.has_flapped = self.has_reloaded = False  # they take long
        self.before = self.place.held()

    def body(self, kind: str) -> str:
        self.place.bodies += 1
        return f"{kind}-{self.place.bodies}"

    @rule(workers=st.integers(0, 3))
    def scale(self, workers: int) -> None:
        self.wanted = workers
        self.place.run_in_time(self._put(workers))

    async def _put(self, *numbers: int) -> None:
        for workers in numbers:
            status, body = await self.place.server.put(f"/models/m?min_worker={workers}&max_worker={workers}")
            assert status == 202, body

    @precondition(lambda self: not self.has_flapped)
    @rule()
    def scale_up_and_down_many_times_at_once(self) -> None:
        self.has_flapped = True
        self.wanted = 1
        self.place.run_in_time(self._put(*[3, 1] * 30))

    @rule(which=st.integers(0, 2))
    def kill(self, which: int) -> None:
        async def kill() -> None:
            alive = sorted(pid for pid in await self.place.workers() if pid > 0)
            if which < len(alive):
                with contextlib.suppress(ProcessLookupError):  # it was on its way out already
                    os.kill(alive[which], signal.SIGKILL)

        self.place.run_in_time(kill())

    @rule(kind=st.sampled_from(["quick", "fail", "stream"]), count=st.integers(1, 6))
    def ask(self, kind: str, count: int) -> None:
        """Several at once become batches."""

        async def ask() -> None:
            for _ in range(count):
                body = self.body(kind)
                self.asked.append((body, Asked(self.place.server, "m", body)))

        self.place.run_in_time(ask())

    @rule(leaves=st.booleans())
    def ask_and_do_not_wait(self, leaves: bool) -> None:
        """The client leaves while the handler runs, or its time limit passes."""

        async def ask() -> None:
            body = self.body("hold")
            asked = Asked(self.place.server, "m", body, **({} if leaves else {"X-Request-Timeout-Ms": "20"}))
            held = asyncio.create_task(self.place.stages.visit("m", "held"))
            ended = asyncio.create_task(asked.end())
            await asyncio.wait([held, ended], return_when=asyncio.FIRST_COMPLETED)
            if leaves and not ended.done():
                await asked.leave()
            else:
                self.asked.append((body, asked))
            if held.done():
                held.result().order("go")
            else:
                held.cancel()
                self.place.stages.release("m", body)

        self.place.run_in_time(ask())

    @precondition(lambda self: not self.has_reloaded)
    @rule()
    def reload(self) -> None:
        self.has_reloaded = True
        self.place.run_in_time(self.place.changed())

    @rule()
    def be_quiet(self) -> None:
        self.place.run(self._be_quiet())

    async def _be_quiet(self) -> None:
        """Everybody has been answered, and the API's view is what exists."""
        for body, asked in self.asked:
            check_answer(body, await asked.end())
        self.asked.clear()
        assert max(Counter(self.place.stages.ran["m"]).values(), default=0) <= 1  # nothing is run twice
        patience = time.monotonic() + 20
        while True:  # a worker that was killed just now is still told of
            await self.place.scaled(self.wanted)
            told, there = await self.place.workers(), self.place.processes()
            if told == there and len(told) == self.wanted:
                return
            assert time.monotonic() < patience, (self.wanted, told, there)

    def teardown(self) -> None:
        async def end() -> None:
            self.wanted = 1
            await self._be_quiet()
            answer = await Asked(self.place.server, "m", self.body("quick")).end()
            assert answer.status == 200
            await self.place.becomes(
                lambda: self.place.held() == self.before,
                lambda: [(now, then) for now, then in zip(self.place.held(), self.before, strict=True) if now != then],
            )

        self.place.run(end())


def check_answer(body: str, answer: Any) -> None:
    """One answer, its own, or why there is none."""
    if answer.status != 200:
        assert answer.whole
        assert answer.status in (500, 503, 504, 507), answer.data
        assert answer.status != 504 or body.startswith("hold"), answer.data  # only these set a limit
    elif body.startswith("stream"):
        assert body in answer.body
        assert not answer.whole or answer.body.count(body) == 2, answer.data  # a worker that died breaks it off
    else:
        assert (answer.body, answer.whole) == (body, True)
        assert not body.startswith("fail")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store = tmp_path / "store"

    async def open_all(stack: AsyncExitStack) -> tuple[Server, Stages]:
        stages = await stack.enter_async_context(staged(tmp_path))
        stages.write_model(store, "m", CONFIG)
        return await stack.enter_async_context(running(tmp_path, store, {}, flags=["--watch"])), stages

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        server, stages = runner.run(open_all(stack))
        try:
            made = Place(runner, server, stages, tmp_path, set(), ends=time.monotonic() + _SECONDS)
            made.run(made.watched())
            made.run(made.scaled(0))
            made.others = set(server.family())
            made.run(made.scaled(1))
            yield made
        finally:
            runner.run(stack.aclose())


def test_server_keeps_its_promises_whatever_happens_in_which_order(place: Place) -> None:
    Life.place = place
    process = psutil.Process(place.server.process.pid)
    memory: list[int] = []

    class Measured(Life):
        def teardown(self) -> None:
            super().teardown()
            memory.append(process.memory_info().rss)

    run_state_machine_as_test(
        Measured,
        settings=settings(
            max_examples=_LIVES,
            stateful_step_count=20,
            derandomize="STATE_MACHINE_SECONDS" not in os.environ,  # the same lives each time, in CI
            database=None,
            deadline=None,
            phases=[Phase.generate],  # shrinking would ask a server that is broken already
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert len(memory) > 1
    assert memory[-1] - memory[0] < _MEMORY
