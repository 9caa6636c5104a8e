"""A model whose handler tells the test where it is and waits there for an order; and a client that sees every byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.e2e.server import Server, write_model

# Stages: loading; begun, with the bodies of the batch; held, each batch with a body that begins with "hold"; and idle,
# in which a thread beside the handler waits for the whole life of the worker.
HANDLER = """
import os
import resource
import socket
import threading

from ts.handler_utils.utils import send_intermediate_predict_response


def reach(stage, *told):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect({socket!r})
        link.sendall(" ".join([{model!r}, stage, str(os.getpid()), *told]).encode() + b"\\n")
        word, *arguments = link.makefile().readline().split() or ["go"]
    globals()["do_" + word](*arguments)


def do_go():
    pass


def do_exit(code):
    os._exit(int(code))


def do_memory():
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        bytearray(1 << 32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def do_fail():
    raise ValueError("as it was told")


def handle(data, context):
    if data is None:
        reach("loading")
        threading.Thread(target=reach, args=["idle"], daemon=True).start()
        return None
    bodies = [bytes(row["body"]).decode() for row in data]
    reach("begun", *bodies)
    streamed = {{row: "" for row, body in enumerate(bodies) if "stream" in body}}
    send_intermediate_predict_response([body + ":" for body in bodies], streamed, "", 200, context)
    if any(body.startswith("hold") for body in bodies):
        reach("held", *bodies)
    if any(body.startswith("fail") for body in bodies):
        do_fail()
    return bodies
"""


@dataclass(frozen=True)
class Visit:
    """A worker that waits in a stage for an order."""

    pid: int
    told: list[str]
    writer: asyncio.StreamWriter

    def order(self, order: str) -> None:
        """``go``, ``exit CODE``, ``memory`` or ``fail``."""
        self.writer.write(order.encode() + b"\n")

    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)


class Stages:
    """The test's end: who has come to which stage, and what has been run."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.ran: dict[str, list[str]] = defaultdict(list)  # by model, the bodies that its handler has begun with
        self.loading_held: set[str] = set()  # models whose workers wait for an order while they load
        self._visits: dict[tuple[str, str], asyncio.Queue[Visit]] = defaultdict(asyncio.Queue)
        self._idle: dict[int, asyncio.Future[Visit]] = defaultdict(asyncio.Future)  # by process
        self._released: set[str] = set()  # bodies with which nobody is held any more

    def write_model(self, store: Path, name: str, config: str) -> None:
        write_model(store, name, HANDLER.format(socket=str(self.socket), model=name), config=config)

    async def visit(self, model: str, stage: str) -> Visit:
        """The next worker of the model that waits in this stage."""
        return await self._visits[model, stage].get()

    def release(self, model: str, body: str) -> None:
        """Whoever is held with this request, or will be, goes on: nobody waits for that visit."""
        self._released.add(body)
        visits = self._visits[model, "held"]
        for visit in [visits.get_nowait() for _ in range(visits.qsize())]:
            if body in visit.told:
                visit.order("go")
            else:
                visits.put_nowait(visit)

    async def idle(self, pid: int) -> Visit:
        return await self._idle[pid]

    async def come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), contextlib.suppress(ConnectionError):  # killed on its way
            line = (await reader.readline()).decode()
            if not line.endswith("\n"):
                return
            model, stage, pid, *told = line.split()
            visit = Visit(int(pid), told, writer)
            if stage == "begun":
                self.ran[model] += told
            goes_on = {
                "begun": True,
                "loading": model not in self.loading_held,
                "held": not self._released.isdisjoint(told),
            }
            if stage == "idle":
                self._idle[visit.pid].set_result(visit)
            elif goes_on.get(stage):
                visit.order("go")
            else:
                self._visits[model, stage].put_nowait(visit)
            await reader.read()  # until it goes on, or dies
            if stage == "idle":
                del self._idle[visit.pid]


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stages]:
    stages = Stages(folder / "stages")
    async with await asyncio.start_unix_server(stages.come, stages.socket):
        yield stages


@dataclass
class Answer:
    """What came back for one request, over a connection of its own, byte for byte."""

    data: bytearray = field(default_factory=bytearray)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def begun(self, text: str) -> None:
        """Waits until this has come."""
        while text.encode() not in self.data:
            self.news.clear()
            await self.news.wait()

    @property
    def status(self) -> int:
        assert self.data.count(b"HTTP/1.1 ") == 1, self.data  # one request, one answer
        return int(self.data.split()[1])

    @property
    def body(self) -> str:
        return self.data.partition(b"\r\n\r\n")[2].decode()

    @property
    def whole(self) -> bool:
        """Whether it ends as its head has announced."""
        head, _, body = self.data.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            return body.endswith(b"\r\n0\r\n\r\n")
        return f"content-length: {len(body)}" in head.decode().lower().split("\r\n")


class Asked:
    """A request on its way: ``answer`` fills, ``end`` waits until the server has closed the connection."""

    def __init__(self, server: Server, model: str, body: str, **headers: str) -> None:
        self.answer = Answer()
        self._task = asyncio.create_task(self._ask(server, model, body, headers))

    async def _ask(self, server: Server, model: str, body: str, headers: Mapping[str, str]) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        fields = {"Host": "x", "Connection": "close", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST /predictions/{model} HTTP/1.1\r\n{head}\r\n{body}".encode())
        try:
            while data := await reader.read(65536):
                self.answer.data += data
                self.answer.news.set()
        except ConnectionResetError:  # how a stream may break off
            pass
        finally:
            writer.close()

    async def end(self) -> Answer:
        await self._task
        return self.answer

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
