"""Nothing that came from a server outlives it, and it survives the end of each process that it needs."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import PATIENCE, Server, running, write_model

# Says what it is about to do, so that a test can wait for it.
HANDLER = """
import multiprocessing, os, subprocess, sys, time
from ts.handler_utils.utils import send_intermediate_predict_response

def rest(word):
    print(word, "begins", flush=True)
    time.sleep(1000)

def handle(data, context):
    if data is None:
        return rest("load") if context.model_yaml_config.get("slow") else None
    word = bytes(data[0]["body"]).decode()
    if word == "stream":
        send_intermediate_predict_response(["piece"], context.request_ids, "ok", 200, context)
    if word == "program":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    if word == "pool":
        context.pool = multiprocessing.Pool(2)
    if word == "daemon" and os.fork() == 0:  # out of the group, the session and the family
        os.setsid()
        os._exit(0) if os.fork() else rest("escaped")
    if word == "echo":
        return ["echo"]
    rest(word)
"""
LAUNCHERS = ["forked", "shared", "exec"]


@asynccontextmanager
async def serving(
    folder: Path, launcher: str, *, config: str = "", ready: bool = True, path: str = ""
) -> AsyncIterator[Server]:
    """A server with the model ``m``. ``path``: where its Python looks for modules first."""
    write_model(folder / "store", "m", HANDLER, config=config)
    environment = {"PYTHONPATH": path} if path else {}
    async with (
        asyncio.timeout(PATIENCE),
        running(
            folder, folder / "store", {"worker_launcher": launcher}, ready=ready, environment=environment
        ) as server,
    ):
        yield server


async def all_ended(processes: Iterable[int]) -> None:
    """Waits for the ends of all."""
    poll, open_ = select.poll(), list[int]()
    for pid in processes:
        try:
            open_.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
        poll.register(open_[-1], select.POLLIN)
    try:
        left = set(open_)
        while left:
            ended = await asyncio.to_thread(poll.poll, PATIENCE * 1000)
            assert ended, "something is left"
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                left.remove(descriptor)
    finally:
        for descriptor in open_:
            os.close(descriptor)


def family(server: Server) -> list[int]:
    return [process.pid for process in server.family()]


async def worker(server: Server) -> psutil.Process:
    return psutil.Process((await server.worker_pids("m"))[0])


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("word", ["idle", "sleep", "stream", "program", "pool", "daemon"])
async def test_nothing_is_left_when_the_server_is_killed(word: str, launcher: str, tmp_path: Path) -> None:
    async with serving(tmp_path, launcher) as server:
        asking = asyncio.create_task(server.post("/predictions/m", word.encode())) if word != "idle" else None
        if asking is not None:
            await server.line("escaped begins" if word == "daemon" else f"{word} begins")
        there = family(server)
        server.process.kill()
        await all_ended(there)
        if asking is not None:
            await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_nothing_is_left_when_the_server_is_killed_while_a_model_loads(launcher: str, tmp_path: Path) -> None:
    async with serving(tmp_path, launcher, config="slow: true", ready=False) as server:
        await server.line("load begins")
        there = family(server)
        server.process.kill()
        await all_ended(there)


async def test_nothing_is_left_when_the_server_is_killed_while_torch_is_imported(tmp_path: Path) -> None:
    hanging = broken_pillow(tmp_path, "import time; print('import begins', flush=True); time.sleep(1000)")
    async with serving(tmp_path, "forked", ready=False, path=hanging) as server:
        await server.line("import begins")
        there = family(server)
        server.process.kill()
        await all_ended(there)


@pytest.mark.parametrize("stopped", ["worker", "forks workers", "starts workers"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_nothing_is_left_when_the_server_is_killed_while_others_are_stopped(
    stopped: str, launcher: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, launcher) as server:
        there, starter = family(server), starting_process(server)
        victim = {"worker": await worker(server), "forks workers": forking_process(server)}.get(stopped, starter)
        victim.suspend()
        server.process.kill()
        await all_ended(there)


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_what_a_worker_started_goes_with_it(launcher: str, tmp_path: Path) -> None:
    async with serving(tmp_path, launcher) as server:
        asking = asyncio.create_task(server.post("/predictions/m", b"program"))
        await server.line("program begins")
        dying = await worker(server)
        (program,) = dying.children()
        dying.kill()
        await all_ended([program.pid])
        assert (await asking)[0] == 507


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("killed", ["forks workers", "starts workers"])
async def test_workers_are_replaced_when_what_started_them_is_killed(
    killed: str, launcher: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, launcher) as server:
        first, forking = await worker(server), forking_process(server)
        victim = forking if killed == "forks workers" else starting_process(server)
        told, goes_with_it = len(server.lines), killed == "starts workers" or launcher != "exec"
        victim.kill()
        if goes_with_it:
            await all_ended([first.pid])
            await server.line(rf"pid {victim.pid}\) was ended by SIGKILL", after=told)
            await server.line(r"is ready \(pid", after=told)
        assert await server.post("/predictions/m", b"echo") == (200, b"echo")
        assert ((await worker(server)) != first) == goes_with_it
        assert (await server.put("/models/m?min_worker=2&synchronous=true"))[0] == 200


async def test_scaling_says_that_the_process_it_needs_is_stopped(tmp_path: Path) -> None:
    async with serving(tmp_path, "forked", config="startupTimeout: 8\n") as server:
        forking = forking_process(server)
        forking.suspend()
        status, body = await server.put("/models/m?min_worker=2&synchronous=true")
        assert status == 500
        assert f"kill -CONT {forking.pid}" in str(body)
        assert await server.post("/predictions/m", b"echo") == (200, b"echo")
        forking.resume()
        assert (await server.put("/models/m?min_worker=2&synchronous=true"))[0] == 200


async def test_death_of_a_worker_is_noticed_while_what_started_it_is_stopped(tmp_path: Path) -> None:
    async with serving(tmp_path, "forked", config="startupTimeout: 8\n") as server:
        asking = asyncio.create_task(server.post("/predictions/m", b"sleep"))
        await server.line("sleep begins")
        forking_process(server).suspend()
        (await worker(server)).kill()
        status, body = await asking
        assert status == 500, body
        assert "Worker died." in str(body)


@pytest.mark.parametrize(
    ("code", "cause", "timeout"),
    [
        pytest.param("import time; time.sleep(1000)", "has not finished its imports", 2, id="hangs"),
        pytest.param("import os; os.abort()", "was ended by SIGABRT before it had finished", 60, id="crashes"),
    ],
)
async def test_requests_are_told_why_when_what_forks_workers_does_not_get_ready(
    code: str, cause: str, timeout: int, tmp_path: Path
) -> None:
    path, config = broken_pillow(tmp_path, code), f"startupTimeout: {timeout}\n"
    async with serving(tmp_path, "forked", config=config, ready=False, path=path) as server:
        await server.line(f"m.* {cause}")
        status, body = await server.post("/predictions/m", b"echo")
        assert status == 503
        assert cause in str(body)


def broken_pillow(folder: Path, code: str) -> str:
    """A folder with a package that the preloading process imports last, and this handler not at all."""
    package = folder / "modules" / "PIL"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    return str(package.parent)


def starting_process(server: Server) -> psutil.Process:
    (process,) = psutil.Process(server.process.pid).children()
    return process


def forking_process(server: Server) -> psutil.Process:
    """A fork of the other, so it has its command line."""
    starter = starting_process(server)
    (process,) = [child for child in starter.children() if child.cmdline() == starter.cmdline()]
    return process
