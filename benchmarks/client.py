"""The load where wrk is not installed: clients that each send their next request when their last is answered.

``python client.py PORT PATH BODY --answer-length 2 --clients 32 --seconds 2`` prints what they saw as JSON.
Unlike wrk it compares the length of each answer's body, and it takes several times wrk's CPU: do not mix the two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from pathlib import Path
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Tally:
    """What all clients saw together."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.refused = self.broken = self.short = self.bytes = 0
        self.over = False


class Client(asyncio.Protocol):
    def __init__(self, request: bytes, answer_length: int, tally: Tally) -> None:
        self.request, self.answer_length, self.tally = request, answer_length, tally
        self.received = bytearray()
        self.expected = 0  # bytes of the answer, once its head is here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.expected and (end := self.received.find(b"\r\n\r\n") + 4) > 3:
            length = LENGTH.search(self.received, 0, end)
            self.expected = end + int(length[1]) if length else end
            self.tally.short += not length or int(length[1]) < self.answer_length
        if self.expected and len(self.received) >= self.expected:
            self.answered()

    def answered(self) -> None:
        if self.tally.over:
            return
        self.tally.latencies.append(time.perf_counter() - self.sent)
        self.tally.refused += b" 200 " not in self.received[:16]
        self.tally.bytes += self.expected
        self.received.clear()
        self.expected = 0
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.tally.broken += not self.tally.over


async def drive(port: int, request: bytes, answer_length: int, clients: int, seconds: float) -> dict[str, float]:
    loop, tally = asyncio.get_running_loop(), Tally()
    began = time.perf_counter()
    connected = (
        loop.create_connection(lambda: Client(request, answer_length, tally), "127.0.0.1", port) for _ in range(clients)
    )
    connections = await asyncio.gather(*connected, return_exceptions=True)
    tally.broken += sum(isinstance(connection, BaseException) for connection in connections)
    await asyncio.sleep(seconds - (time.perf_counter() - began))
    passed = time.perf_counter() - began
    tally.over = True
    latencies = sorted(tally.latencies) or [0.0]
    return {
        "requests": len(tally.latencies),
        "seconds": passed,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
        "refused": tally.refused,
        "broken": tally.broken,
        "short": tally.short,
        "bytes": tally.bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--content-type", default="application/octet-stream")
    parser.add_argument("--answer-length", type=int, default=0, help="bytes that the body of an answer has at least")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    body = chosen.body.read_bytes()
    head = f"POST {chosen.path} HTTP/1.1\r\nHost: 127.0.0.1:{chosen.port}\r\nContent-Type: {chosen.content_type}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    print(
        "RESULT",
        json.dumps(uvloop.run(drive(chosen.port, request, chosen.answer_length, chosen.clients, chosen.seconds))),
    )


if __name__ == "__main__":
    main()
