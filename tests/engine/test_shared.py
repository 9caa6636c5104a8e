"""Workers forked from a process that has loaded their model: once where that is safe, and by each where it is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.serving import engine_of, served, spec_for
from torchserve_lite.errors import LoadFailed, WorkerDied

# Notes each loading in a file, does ``{leaves}`` while it loads, and tells what a request finds.
HANDLER = """
import json, os, random, time
import numpy, torch
from pathlib import Path

weights = None

def handle(data, context):
    global weights
    if data is None:
        with open("loads", "a") as file:
            print(os.getpid(), file=file)
        weights = bytearray(os.urandom(1 << 20)) * 64
        context.metrics.add_counter("loads", 1)
        print("loaded by", os.getpid())
        {leaves}
        return None
    time.sleep(float(bytes(data[0]["body"]) or 0))
    smaps = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return [json.dumps({{
        "pid": os.getpid(),
        "parent": os.getppid(),
        "own": sum(int(line.split()[1]) for line in smaps if line.startswith("Private_")) // 1024,
        "read": sum(weights[::4096]),
        "drawn": [random.random(), numpy.random.random()],
        "threads": torch.get_num_threads(),
    }})]
"""


def written(folder: Path, leaves: str = "pass") -> Path:
    model = folder / "large"
    model.mkdir()
    (model / "large.py").write_text(HANDLER.format(leaves=leaves))
    return model


def loads(model: Path) -> list[int]:
    return [int(line) for line in (model / "loads").read_text().split()]


async def ask_all(model: Any, workers: int) -> list[dict[str, Any]]:
    """Requests at once, so many that each worker gets one."""
    answers = await asyncio.gather(*(model.ask(b"0.3") for _ in range(workers)))
    told = [json.loads(bytes(answer)) for answer in answers]
    assert len({one["pid"] for one in told}) == workers
    return told


async def test_model_is_loaded_once_and_its_workers_share_what_it_holds(tmp_path: Path) -> None:
    folder = written(tmp_path)
    async with served("shared", folder, workers=3, engine={"cores": 6}) as model:
        told = await ask_all(model, 3)
        (loaded_by,) = loads(folder)
        assert {one["parent"] for one in told} == {loaded_by}
        assert all(one["own"] < 40 for one in told), "it holds 64 MiB of its own"
        assert len({one["read"] for one in told}) == 1
        assert len({number for one in told for number in one["drawn"]}) == 6, "they draw the same random numbers"
        assert {one["threads"] for one in told} == {2}
        assert [metric.name for metric in model.events.load_metrics] == ["loads"] * 3
    assert not psutil.pid_exists(loaded_by)


@pytest.mark.parametrize(
    "leaves",
    [
        pytest.param(
            "import threading; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", id="thread"
        ),
        pytest.param("import subprocess; context.child = subprocess.Popen(['sleep', '1000'])", id="process"),
        pytest.param("import socket; context.pair = socket.socketpair()", id="sockets"),
        pytest.param("context.file = open('large.py')", id="file"),
        pytest.param("import multiprocessing; context.lock = multiprocessing.Lock()", id="shared memory"),
        pytest.param("import signal; signal.signal(signal.SIGTERM, lambda *_: None)", id="signal"),
        pytest.param("import signal; signal.setitimer(signal.ITIMER_REAL, 1000)", id="timer"),
        pytest.param("random.seed(0)", id="random"),
        pytest.param("numpy.random.seed(0)", id="numpy's random"),
        pytest.param("torch.manual_seed(0)", id="torch's random"),
        pytest.param("torch.set_num_threads(2); torch.ones(10**6).exp()", id="torch's threads"),
        pytest.param("import asyncio; asyncio.get_event_loop().create_task(asyncio.sleep(0))", id="task"),
    ],
)
async def test_model_is_loaded_by_each_worker_when_loading_leaves_what_a_fork_would_lack_or_share(
    leaves: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = written(tmp_path, leaves)
    async with served("shared", folder, workers=2) as model:
        assert sorted(loads(folder)) == sorted(one["pid"] for one in await ask_all(model, 2))
        assert [metric.name for metric in model.events.load_metrics] == ["loads"] * 2
    assert "Each worker of this model loads it for itself" in caplog.text


async def test_handler_that_was_to_be_forked_has_all_threads_when_it_is_not(tmp_path: Path) -> None:
    folder = written(tmp_path, "context.file = open('large.py')")
    async with served("shared", folder, engine={"cores": 2}) as model:
        assert json.loads(bytes(await model.ask(b"")))["threads"] == 2


async def test_workers_are_replaced_when_their_fork_server_is_killed(tmp_path: Path) -> None:
    folder = written(tmp_path)
    async with served("shared", folder, workers=2) as model:
        told = await ask_all(model, 2)
        running = model.submit(b"1000")
        os.kill(told[0]["parent"], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await running.answer
        await model.engine.scale(model.spec.key, 2)
        again = await ask_all(model, 2)
        assert not {one["pid"] for one in told} & {one["pid"] for one in again}
        assert len(loads(folder)) == 2


async def test_worker_that_dies_is_replaced_from_its_fork_server(tmp_path: Path) -> None:
    folder = written(tmp_path)
    async with served("shared", folder, workers=2) as model:
        told = await ask_all(model, 2)
        os.kill(told[0]["pid"], signal.SIGKILL)
        await model.events.failed.wait()
        await model.engine.scale(model.spec.key, 2)
        assert {one["parent"] for one in await ask_all(model, 2)} == {told[0]["parent"]}
        assert len(loads(folder)) == 1


async def test_model_is_loaded_anew_after_it_was_scaled_to_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path)
    async with served("shared", folder, workers=2) as model:
        for workers in (0, 2):
            await model.engine.scale(model.spec.key, workers)
        first, second = loads(folder)
        assert not psutil.pid_exists(first)
        assert {one["parent"] for one in await ask_all(model, 2)} == {second}


@pytest.mark.parametrize(
    ("leaves", "cause"),
    [
        pytest.param("raise RuntimeError('no weights')", "no weights", id="raises"),
        pytest.param("time.sleep(1000)", "did not load within startupTimeout=1 s", id="hangs"),
        pytest.param("os.kill(os.getpid(), 9)", "ended by SIGKILL while at loading", id="killed"),
        pytest.param("os._exit(3)", "exited with code 3 while at loading", id="exits"),
    ],
)
async def test_failure_to_load_is_told_to_all_workers_that_wait_for_it(leaves: str, cause: str, tmp_path: Path) -> None:
    folder = written(tmp_path, leaves)
    timeout = {"startup_timeout": 1.0} if "sleep" in leaves else {}
    async with engine_of("shared", folder) as engine, asyncio.timeout(100):
        with pytest.raises(LoadFailed, match=cause):
            await engine.load(spec_for(folder, **timeout), 3)
        assert len(loads(folder)) == 1
