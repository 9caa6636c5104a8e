"""Sends the requests of a case to a running server, TorchServe or ours, and notes what comes back."""

from __future__ import annotations

import base64
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PATIENCE = 30.0  # seconds; an exited worker of TorchServe is back after about five
UNINTERESTING = (
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "expires",
    "keep-alive",
    "pragma",
)
OF_THE_MOMENT = ("retry-after", "server", "server-timing", "transfer-encoding", "x-request-id")

Record = dict[str, Any]
Normaliser = Callable[[Record], Record]


def as_it_is(record: Record) -> Record:
    return record


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; ``{model}`` in the path is the model's name. ``label`` finds its recording.

    ``our_type`` is the content type we send where TorchServe sends none.
    """

    label: str
    path: str = "/predictions/{model}"
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False
    listener: Literal["inference", "management", "metrics"] = "inference"
    normalise: Normaliser = as_it_is
    our_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Requests that a worker gets in one batch, in this order, because it was held busy until all of them waited."""

    requests: tuple[Request, ...]


Step = Request | Batch


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: listener -> its address, as ``127.0.0.1:8080``."""

    addresses: Mapping[str, str]

    def connect(self, listener: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.addresses[listener], timeout=PATIENCE)


@dataclass(kw_only=True)
class Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    chunks: list[bytes] = field(default_factory=list)
    broken: bool = False

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def record(self) -> Record:
        """As it stands in recordings.json, where what is absent or empty is left out."""
        ignored = (*UNINTERESTING, *OF_THE_MOMENT)
        record = {
            "status": self.status,
            "reason": self.reason,
            "content_type": self.header("content-type"),
            "headers": dict(sorted((key.lower(), value) for key, value in self.headers if key.lower() not in ignored)),
            "body": text_of(b"".join(self.chunks)),
            "chunks": [text_of(chunk) for chunk in self.chunks] if self.header("transfer-encoding") else [],
            "broken": self.broken,
        }
        return {name: value for name, value in record.items() if value or name == "body"}


def text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(body).decode()


def run_case(server: Server, model: str, steps: tuple[Step, ...]) -> dict[str, Record]:
    """Runs the steps in order; label -> record."""
    records: dict[str, Record] = {}
    for step in steps:
        match step:
            case Request():
                records[step.label] = ask(server, model, step)
            case Batch():
                records |= ask_together(server, model, step)
    return records


def ask(server: Server, model: str, request: Request) -> Record:
    connection = server.connect(request.listener)
    try:
        send(connection, model, request)
        return request.normalise(received(connection.getresponse()).record())
    finally:
        connection.close()


def send(connection: http.client.HTTPConnection, model: str, request: Request) -> None:
    connection.putrequest(request.method, request.path.format(model=model), skip_accept_encoding=True)
    for name, value in request.headers:
        connection.putheader(name, value)
    if request.chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    elif request.body or request.method == "POST":
        connection.putheader("Content-Length", str(len(request.body)))
    connection.endheaders(request.body or None, encode_chunked=request.chunked)


def received(response: http.client.HTTPResponse) -> Answer:
    answer = Answer(status=response.status, reason=response.reason, headers=response.getheaders())
    try:
        while chunk := response.read1():  # at most one chunk of the transfer encoding at a time
            answer.chunks.append(chunk)
    except (http.client.IncompleteRead, ConnectionError):
        answer.broken = True
    return answer


def ask_together(server: Server, model: str, batch: Batch) -> dict[str, Record]:
    with ThreadPoolExecutor(len(batch.requests) + 1) as threads, tempfile.TemporaryDirectory() as folder:
        with held_worker(server, model, Path(folder), threads):
            answers = list(queued(server, model, batch, threads))
        return {label: answer.result() for label, answer in answers}


@contextmanager
def held_worker(server: Server, model: str, gate: Path, threads: ThreadPoolExecutor) -> Iterator[None]:
    """The model's only worker is busy inside; see ``handlers/batches.py``."""
    text = (("Content-Type", "text/plain"),)
    held = threads.submit(ask, server, model, Request(label="held", headers=text, body=f"hold {gate}".encode()))
    try:
        until((gate / "held").exists)
        yield
    finally:
        (gate / "release").touch()
    held.result()


def queued(
    server: Server, model: str, batch: Batch, threads: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[Record]]]:
    """Sends one request after the other, each when its predecessor waits in the model's queue."""
    for place, request in enumerate(batch.requests, start=1):
        yield request.label, threads.submit(ask, server, model, request)

        def last_one_waits(place: int = place) -> bool:
            return waiting(server, model) == place

        until(last_one_waits)


def waiting(server: Server, model: str) -> int:
    describe = Request(label="describe", method="GET", path="/models/{model}", listener="management")
    described = json.loads(ask(server, model, describe)["body"])[0]
    return int(described["jobQueueStatus"]["pendingRequests"])


def until(true: Callable[[], bool]) -> None:
    """Returns when ``true()``; the state of another process gives no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no change within {PATIENCE:g} s")
        time.sleep(0.01)
