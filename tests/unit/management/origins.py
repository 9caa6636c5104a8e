"""Web servers that archives are fetched from in tests, well- and ill-behaved."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Origin:
    """Answers each path as ``answers`` says, closes the connection, and keeps the heads of requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []

    def serve(self, path: str, body: bytes, **headers: str) -> str:
        self.answers[path] = sending(body, headers=headers)
        return self.url + path

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        self.answers[path] = sending(b"", status=f"{status} Moved", headers={"Location": target})
        return self.url + path


def sending(body: bytes, *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Answer:
    """``headers`` may give another Content-Length, or none with ""."""
    given = {
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): text for name, text in (headers or {}).items()},
    }
    lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{name}: {text}" for name, text in given.items() if text)]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        await writer.drain()

    return send


def endless(*, announced: str = "") -> Answer:
    """A zip that does not end."""
    start = sending(b"PK\3\4", headers={"Content-Length": announced})

    async def send(writer: asyncio.StreamWriter) -> None:
        await start(writer)
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    return send


def silent(started: asyncio.Event, *, after: bytes = b"") -> Answer:
    """Sends ``after``, says so, and then nothing for ever."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(after)
        await writer.drain()
        started.set()
        await asyncio.Event().wait()

    return send


@asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    async with asyncio.TaskGroup() as tasks:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    made.requests.append(head)
                    path = head.split(" ")[1].partition("?")[0]
                    await made.answers.get(path, sending(b"not here", status="404 Not Found"))(writer)
            finally:
                writer.close()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            running.add(task := tasks.create_task(answer(reader, writer)))
            task.add_done_callback(running.discard)

        running: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        made = Origin(server.sockets[0].getsockname()[1])
        try:
            yield made
        finally:
            server.close()
            for task in running:
                task.cancel()
