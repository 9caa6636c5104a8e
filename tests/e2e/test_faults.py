"""What users are promised when things go wrong: who fails, what they are told, and that the server goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, write_model
from tests.gate import Gate

# Answers only when somebody writes to the pipe that the request names; notes each request that reached it.
GATED = """
import pathlib
def handle(data, context):
    if data is None:
        return None
    for row in data:
        pipe = pathlib.Path(row["body"].decode())
        with open(pipe.with_suffix(".seen"), "a") as seen:
            seen.write("x")
        pipe.read_text()
    return ["done"] * len(data)
"""
ECHO = "def handle(data, context):\n    return None if data is None else [bytes(row['body']) for row in data]\n"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    store = tmp_path / "store"
    write_model(store, "gated", GATED, config="minWorkers: 1\nmaxWorkers: 1\nbatchSize: 1\njobQueueSize: 2\n")
    write_model(store, "echo", ECHO)
    async with running(tmp_path, store, {}) as server:
        yield server


async def test_killed_worker_costs_its_running_request_only(server: Server, tmp_path: Path) -> None:
    running_, queued = Gate(tmp_path, "running"), Gate(tmp_path, "queued")
    first = asyncio.create_task(server.post("/predictions/gated", running_.body))
    await running_.reached()
    second = asyncio.create_task(server.post("/predictions/gated", queued.body))
    await server.until_queued("gated", 1)
    (pid,) = await server.worker_pids("gated")
    os.kill(pid, signal.SIGKILL)
    status, body = await first
    assert status == 507  # as TorchServe: SIGKILL is what the out-of-memory killer sends
    assert "Worker died." in body["message"]  # type: ignore[index]
    assert "SIGKILL" in body["message"]  # type: ignore[index]
    assert "handle" in body["message"]  # type: ignore[index]
    await queued.reached()
    queued.open()
    assert await second == (200, b"done")
    assert await server.worker_pids("gated") != [pid]


async def test_batch_that_a_dead_worker_never_took_up_is_run_by_the_next_one(server: Server) -> None:
    """A worker that dies while idle may be sent a job before its death is known; that job has not been run."""
    (pid,) = await server.worker_pids("echo")
    os.kill(pid, signal.SIGSTOP)
    answer = asyncio.create_task(server.post("/predictions/echo", b"hello"))
    while 'ts_running_requests{model_name="echo",model_version="1.0"} 1.0' not in await server.metrics():
        pass
    os.kill(pid, signal.SIGKILL)
    assert await answer == (200, b"hello")


async def test_full_queue_refuses_at_once_and_says_so(server: Server, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, f"gate{number}") for number in range(3)]
    first = asyncio.create_task(server.post("/predictions/gated", gates[0].body))
    await gates[0].reached()
    waiting = [asyncio.create_task(server.post("/predictions/gated", gate.body)) for gate in gates[1:]]
    await server.until_queued("gated", 2)
    async with server.client.post(f"{server.url}/predictions/gated", data=b"one too many") as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert "full" in (await response.json())["message"]
    gates[0].open()
    for gate in gates[1:]:
        await gate.reached()
        gate.open()
    assert [await answer for answer in (first, *waiting)] == [(200, b"done")] * 3


async def test_job_of_a_client_that_has_gone_never_runs(server: Server, tmp_path: Path) -> None:
    running_, gone = Gate(tmp_path, "running"), Gate(tmp_path, "gone")
    first = asyncio.create_task(server.post("/predictions/gated", running_.body))
    await running_.reached()
    second = asyncio.create_task(server.post("/predictions/gated", gone.body))
    await server.until_queued("gated", 1)
    second.cancel()
    await server.until_queued("gated", 0)
    running_.open()
    assert (await first)[0] == 200
    last = Gate(tmp_path, "last")
    third = asyncio.create_task(server.post("/predictions/gated", last.body))
    await last.reached()
    last.open()
    assert (await third)[0] == 200
    assert gone.times_run == 0


async def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    running_, queued = Gate(tmp_path, "running"), Gate(tmp_path, "queued")
    family = server.family()
    answers = [asyncio.create_task(server.post("/predictions/gated", running_.body))]
    await running_.reached()
    answers.append(asyncio.create_task(server.post("/predictions/gated", queued.body)))
    await server.until_queued("gated", 1)
    stopping = asyncio.create_task(server.stop())
    await server.line("Stopping")
    running_.open()
    await queued.reached()
    queued.open()
    assert await asyncio.gather(*answers) == [(200, b"done")] * 2
    assert await stopping == 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not list((tmp_path / "tmp").glob("torchserve-lite-models-*"))


async def test_request_past_its_time_limit_is_told_and_does_not_run(server: Server, tmp_path: Path) -> None:
    running_, late = Gate(tmp_path, "running"), Gate(tmp_path, "late")
    first = asyncio.create_task(server.post("/predictions/gated", running_.body))
    await running_.reached()
    status, body = await server.post("/predictions/gated", late.body, **{"X-Request-Timeout-Ms": "50"})
    assert status == 504
    assert "0.05 s" in body["message"]  # type: ignore[index]
    running_.open()
    await first
    after = Gate(tmp_path, "after")  # whatever was queued before it has been run or left out by then
    last = asyncio.create_task(server.post("/predictions/gated", after.body))
    await after.reached()
    after.open()
    await last
    assert late.times_run == 0


async def test_hung_worker_is_stopped_after_the_response_timeout(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "gated", GATED, config="responseTimeout: 1\n")
    async with running(tmp_path, store, {}) as server:
        hung, fine = Gate(tmp_path, "hung"), Gate(tmp_path, "fine")
        status, body = await server.post("/predictions/gated", hung.body)
        assert status == 500
        assert "responseTimeout=1 s" in body["message"]  # type: ignore[index]
        second = asyncio.create_task(server.post("/predictions/gated", fine.body))
        await fine.reached()
        fine.open()
        assert await second == (200, b"done")


async def test_load_goes_on_while_workers_are_killed(tmp_path: Path) -> None:
    """Only requests of a running batch may fail, and each is told why."""
    store = tmp_path / "store"
    write_model(store, "echo", ECHO, config="minWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 5\n")
    async with running(tmp_path, store, {}) as server:
        stop = threading.Event()
        answers: list[tuple[int, object]] = []

        async def ask(client: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                text = f"{client}-{number}".encode()
                answer = await server.post("/predictions/echo", text)
                assert answer[0] != 200 or answer[1] == text
                answers.append(answer)

        async with asyncio.TaskGroup() as clients:
            for client in range(16):
                clients.create_task(ask(client))
            for _ in range(3):
                ready = len(server.lines)
                pid = (await server.worker_pids("echo"))[0]
                os.kill(pid, signal.SIGKILL)
                await server.line("W-.*echo.* is ready", after=ready)
            stop.set()
        failed = [body for status, body in answers if status != 200]
        assert len(failed) <= 3 * 4
        assert all("SIGKILL" in body["message"] for body in failed)  # type: ignore[index]


async def test_scaling_changes_the_number_of_workers(server: Server) -> None:
    status, body = await server.put("/models/echo?min_worker=3&synchronous=true")
    assert (status, body) == (200, {"status": "Workers scaled to 3 for model: echo"})
    assert len(set(await server.worker_pids("echo"))) == 3
    assert (await server.put("/models/echo?min_worker=0&synchronous=true"))[0] == 200
    status, body = await server.post("/predictions/echo", b"x")
    assert status == 503
    assert "no worker" in body["message"]  # type: ignore[index]
    assert (await server.put("/models/echo?min_worker=1"))[0] == 202


@pytest.mark.parametrize(
    ("query", "told"),
    [
        pytest.param("min_worker=2&max_worker=1", "max_worker cannot be less than min_worker.", id="max-below-min"),
        pytest.param("min_worker=-1", "from 0 to 1000", id="negative"),
        pytest.param("min_worker=many", "whole number", id="no-number"),
    ],
)
async def test_impossible_scaling_is_refused(server: Server, query: str, told: str) -> None:
    status, body = await server.put(f"/models/echo?{query}")
    assert status == 400
    assert told in body["message"]  # type: ignore[index]
    assert (await server.post("/predictions/echo", b"x"))[0] == 200
