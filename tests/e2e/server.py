"""A real server process for tests: started as a user starts it, stopped by SIGTERM, its output kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

_READY = "Model server started."
_LONGEST_LINE = 256 * 1024
PATIENCE = 90.0  # a bound on waiting for events, for a machine that is busy; no test measures time by it


class Server:
    """A running server. ``url`` is its inference (and management) address. Its output is taken while ``reading`` is
    set."""

    def __init__(self, process: asyncio.subprocess.Process, client: aiohttp.ClientSession) -> None:
        self.process = process
        self.client = client
        self.lines: list[str] = []
        self.url = ""
        self.reading = asyncio.Event()
        self.reading.set()
        self._news = asyncio.Event()

    async def read_output(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            await self.reading.wait()
            self.lines.append(line.decode("utf-8", "replace").rstrip())
            self._news.set()
        self.lines.append("<end of output>")
        self._news.set()

    async def line(self, pattern: str, *, after: int = 0) -> str:
        """Waits for a line of output that matches."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._news.clear()
                found = [line for line in self.lines[after:] if re.search(pattern, line)]
                if found:
                    return found[0]
                assert "<end of output>" not in self.lines, f"no line {pattern!r} in:\n{self.output}"
                await self._news.wait()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    async def get(self, path: str) -> tuple[int, object]:
        async with self.client.get(self.url + path) as response:
            return response.status, _body(await response.read())

    async def post(self, path: str, body: object = b"", **headers: str) -> tuple[int, object]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(self.url + path, data=data, headers=headers) as response:
            return response.status, _body(await response.read())

    async def put(self, path: str) -> tuple[int, object]:
        async with self.client.put(self.url + path) as response:
            return response.status, _body(await response.read())

    async def delete(self, path: str) -> tuple[int, object]:
        async with self.client.delete(self.url + path) as response:
            return response.status, _body(await response.read())

    @property
    def metrics_address(self) -> str:
        """Host and port."""
        address = next(line for line in self.lines if line.startswith("listening:") and "metrics" in line)
        return address.rpartition("://")[2]

    async def metrics(self) -> str:
        async with self.client.get(f"http://{self.metrics_address}/metrics") as response:
            return await response.text()

    async def worker_pids(self, model: str) -> list[int]:
        return [worker["pid"] for worker in (await self.describe(model))["workers"]]

    async def describe(self, model: str) -> dict[str, Any]:
        """What the management API says of the model's one version."""
        _, versions = await self.get(f"/models/{model}")
        assert isinstance(versions, list)
        (described,) = versions
        assert isinstance(described, dict)
        return described

    async def until_queued(self, model: str, jobs: int) -> None:
        """Waits until that many jobs are in the model's queue, as the describe call shows it."""
        async with asyncio.timeout(PATIENCE):
            while (await self.describe(model))["jobQueueStatus"]["pendingRequests"] != jobs:
                pass

    async def stop(self) -> int:
        """SIGTERM; returns the exit code once the process has gone."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def descriptors(self) -> dict[int, list[str]]:
        """By process: the kinds of what its descriptors are open for. Without the process that workers are forked from:
        it is still importing when a server is ready that forks none."""
        front, *children = self.family()
        starters = {process.pid: process.cmdline() for process in children if process.ppid() == front.pid}
        own = [process for process in children if starters.get(process.ppid()) != process.cmdline()]
        return {process.pid: sorted(_open_kinds(process.pid)) for process in (front, *own)}


def grpc_address(server: Server) -> str:
    line = next(line for line in server.lines if line.startswith("listening: gRPC inference"))
    return line.rpartition("://")[2]


@asynccontextmanager
async def running(
    folder: Path,
    store: Path,
    settings: Mapping[str, object],
    *,
    ready: bool = True,
    environment: Mapping[str, str] | None = None,
    command: str = "start",
    flags: Sequence[str] = (),
    wrapper: Sequence[str] = (),
) -> AsyncIterator[Server]:
    """A server with ``settings`` as its config.properties. ``ready``: wait until all models are loaded. ``wrapper``: a
    command that runs the server in its place (``unshare``, ``sh -c 'exec "$@"'``)."""
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        sys.executable,
        "-m",
        "torchserve_lite",
        command,
        "--ts-config",
        str(write_config(folder, store, settings)),
        *flags,
        cwd=folder,
        env=environment_for(folder, environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # a test may send the whole group a signal
        limit=_LONGEST_LINE,
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        server = Server(process, client)
        reading = asyncio.create_task(server.read_output())
        try:
            server.url = (await server.line(r"listening: inference")).rpartition(" ")[2]
            if ready:
                await server.line(re.escape(_READY))
            yield server
        finally:
            await server.stop()
            await reading


async def until(holds: Callable[[], object]) -> None:
    """Waits for what another process does, where nothing tells us of it."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def write_model(
    store: Path,
    name: str,
    code: str,
    *,
    config: str = "",
    files: Mapping[str, bytes] | None = None,
    manifest: Mapping[str, str] | None = None,
) -> None:
    """A model folder in the store with ``code`` as its handler and ``config`` as its model-config.yaml."""
    folder = store / name
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "handler.py").write_text(code)
    model = {"modelName": name, "handler": "handler.py", "modelVersion": "1.0", **(manifest or {})}
    if config:
        (folder / "model-config.yaml").write_text(config)
        model["configFile"] = "model-config.yaml"
    for file, data in (files or {}).items():
        (folder / file).write_bytes(data)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))


def write_archive(
    store: Path,
    file: str,
    name: str,
    version: str,
    code: str,
    *,
    config: str = "",
    files: Mapping[str, bytes] | None = None,
) -> None:
    """A model as an archive in the store, with ``code`` as its handler and ``config`` as its model-config.yaml."""
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py"}
    with zipfile.ZipFile(store / file, "w") as archive:
        archive.writestr("handler.py", code)
        if config:
            archive.writestr("model-config.yaml", config)
            model["configFile"] = "model-config.yaml"
        for name_in_it, data in (files or {}).items():
            archive.writestr(name_in_it, data)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))


def write_config(folder: Path, store: Path, settings: Mapping[str, object]) -> Path:
    values = {
        "inference_address": "http://127.0.0.1:0",
        "management_address": "http://127.0.0.1:0",
        "metrics_address": "http://127.0.0.1:0",
        "grpc_inference_port": 0,
        "disable_system_metrics": "true",  # a look at the machine opens files for a moment, where tests count them
        "grpc_management_port": 0,
        "disable_token_authorization": "true",
        "model_store": str(store),
        "load_models": "all",
        "default_workers_per_model": 1,
        "shutdown_linger_seconds": 0,  # no load balancer has to learn of the stop
        **settings,
    }
    file = folder / "config.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return file


def environment_for(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    return {**own, "TMPDIR": str(temporary), "LOG_LOCATION": str(folder / "logs"), **more}


def _open_kinds(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield re.sub(r"\[\d+\]", "", os.readlink(descriptor))


def _body(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return data
