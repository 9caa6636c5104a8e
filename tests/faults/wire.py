"""A client of a server under test that sends byte by byte, and leaves when and how a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.e2e.server import PATIENCE

_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """One connection. Use ``connect``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def connect(cls, url: str) -> Client:
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def get(self, path: str, **headers: str) -> None:
        self.send(_head("GET", path, headers))

    def post(self, path: str, body: bytes, *, times: int = 1, **headers: str) -> None:
        """``times``: so many requests, one behind the other in one piece."""
        self.send((_head("POST", path, {"Content-Length": str(len(body)), **headers}) + body) * times)

    async def read_until(self, text: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readuntil(text)

    async def answer(self) -> Answer:
        """The next answer, whole: IncompleteReadError or ConnectionResetError when there is less."""
        head = (await self.read_until(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        async with asyncio.timeout(PATIENCE):
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """What comes until the server has closed, in whichever way it does."""
        received = b""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(2**16):
                    received += data
        return received

    def leave(self, how: str) -> None:
        """``FIN``: closes the connection as a client does that ends; ``RST``: as one that is cut off."""
        if how == "FIN":
            self._writer.close()
            return
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
