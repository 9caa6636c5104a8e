"""Clients that leave, at every stage of a request: their job does not begin, its place is free, those who share a batch
with it are answered, and nothing of it stays behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, until, write_model
from tests.faults.wire import Client
from tests.gate import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Notes each call, answers each row with its own text, and waits where a row names a pipe. A first row that ends with
# "stream" gets a piece before that, and more than any buffer holds afterwards.
MODEL = """
import pathlib
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    headers = [context.get_all_request_header(index) for index in range(len(data))]
    with open("journal", "a") as journal:
        journal.write(f"{data} {headers}\\n")
    asked = [bytes(row["body"]).decode() for row in data]
    streams = asked[0].endswith("stream")

    def send(piece):
        send_intermediate_predict_response([piece] + [""] * (len(data) - 1), {0: ""}, "", 200, context)

    if streams:
        send("begun")
    for path in map(pathlib.Path, asked):
        if path.is_fifo():
            path.read_text()
    for _ in range(100 if streams else 0):
        send("x" * 100_000)
    return asked
"""
HOW = pytest.mark.parametrize("how", ["FIN", "RST"])
HALVES = {
    "half the headers": b"POST /predictions/alone HTTP/1.1\r\nHost: x\r\nX-Name: le",
    "a head without its body": b"POST /predictions/alone HTTP/1.1\r\nContent-Length: 6\r\n\r\n",
    "half the body": b"POST /predictions/alone HTTP/1.1\r\nContent-Length: 6\r\n\r\nlea",
    "half a chunk": b"POST /predictions/alone HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nlea",
    "a body held back": b"POST /predictions/alone HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n",
    "half a form": b"POST /predictions/alone HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b'Content-Length: 99\r\n\r\n--b\r\nContent-Disposition: form-data; name="body"\r\n\r\nlea',
}
QUEUED = {
    "predictions": ("/predictions/alone", b"leaver"),
    "explanations": ("/explanations/alone", b"leaver"),
    "v1": ("/v1/models/alone:predict", json.dumps({"instances": ["leaver"]}).encode()),
    "v2": (
        "/v2/models/alone/infer",
        json.dumps({"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ["leaver"]}]}).encode(),
    ),
    "describe": ("/models/alone?customized=true", b""),
}


class Models:
    """A server with models ``alone`` (batches of one, and one job may wait), ``shared`` (batches of three) and
    ``filling-...`` (batches of three that are waited for)."""

    def __init__(self, server: Server, store: Path) -> None:
        self.server = server
        self._store = store

    def runs_of(self, name: str, model: str = "*") -> list[str]:
        """The calls of the handler in which a request had that name."""
        journals = [journal.read_text() for journal in self._store.glob(f"{model}/journal")]
        return [call for journal in journals for call in journal.splitlines() if name in call]

    async def asking(self, body: bytes, *, model: str = "shared") -> Client:
        client = await Client.connect(self.server.url)
        client.post(f"/predictions/{model}", body)
        return client

    async def until_left(self, client: Client) -> None:
        """Waits until the server has closed its end of the connection."""
        await until(lambda: client.port not in self._clients())

    async def until_alone(self) -> None:
        """Waits until we are the only client, with one connection."""
        assert await self.server.post("/predictions/alone", b"before") == (200, b"before")
        await until(lambda: len(self._clients()) == 1)

    def _clients(self) -> list[int]:
        """The ports of clients whose connections the server has open."""
        links = psutil.Process(self.server.process.pid).net_connections()
        return [link.raddr.port for link in links if link.raddr and link.status != psutil.CONN_LISTEN]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["forked", "exec"])
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Models]:
    """Its stop waits for every request in progress, so it ends only when none was left."""
    folder = tmp_path_factory.mktemp(request.param)
    store = folder / "store"
    write_model(store, "alone", MODEL, config="maxWorkers: 1\nbatchSize: 1\njobQueueSize: 1\n")
    write_model(store, "shared", MODEL, config="maxWorkers: 1\nbatchSize: 3\nmaxBatchDelay: 1\n")
    for name in ("filling-FIN", "filling-RST"):  # each remembers how many clients it has had
        write_model(store, name, MODEL, config="maxWorkers: 1\nbatchSize: 3\nmaxBatchDelay: 600000\n")
    settings = {"worker_launcher": request.param, "shutdown_grace_seconds": 1000, "shutdown_linger_seconds": 0}
    async with running(folder, store, settings) as server:
        yield Models(server, store)


@asynccontextmanager
async def nothing_left(served: Models) -> AsyncIterator[None]:
    """Left: the server has the processes and descriptors that it had, and answers."""
    await served.until_alone()
    before = served.server.descriptors()
    yield
    await served.until_alone()
    await until(lambda: served.server.descriptors() == before)
    assert await served.server.post("/predictions/alone", b"after") == (200, b"after")
    assert served.runs_of("leaver") == []


async def answered(client: Client) -> bytes:
    answer = await client.answer()
    await client.close()
    assert answer.status == 200, answer
    return answer.body


async def held(served: Models, folder: Path, model: str) -> tuple[Gate, Client]:
    """A worker that runs a request, until its gate is opened."""
    gate = Gate(folder, "held")
    client = await served.asking(gate.body, model=model)
    await gate.reached()
    return gate, client


@HOW
@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_request_of_which_half_was_sent_leaves_nothing(served: Models, sent: bytes, how: str) -> None:
    async with nothing_left(served):
        calls = len(served.runs_of("", "alone"))
        client = await Client.connect(served.server.url)
        client.send(sent)
        await served.server.get("/ping")
        client.leave(how)
    assert len(served.runs_of("", "alone")) == calls + 2  # those by which the test itself has asked at its end


@HOW
@pytest.mark.parametrize(("path", "body"), QUEUED.values(), ids=QUEUED)
async def test_queued_job_never_runs_and_its_place_is_free(
    served: Models, path: str, body: bytes, how: str, tmp_path: Path
) -> None:
    async with nothing_left(served):
        gate, first = await held(served, tmp_path, "alone")
        leaver = await Client.connect(served.server.url)
        leaver.post(path, body) if body else leaver.get(path, X_Name="leaver")
        await served.server.until_queued("alone", 1)
        leaver.leave(how)
        await served.server.until_queued("alone", 0)
        second = await served.asking(b"second", model="alone")
        await served.server.until_queued("alone", 1)
        gate.open()
        assert [await answered(first), await answered(second)] == [gate.body, b"second"]


@HOW
async def test_job_that_waits_in_a_batch_that_is_not_full_never_runs(served: Models, how: str, tmp_path: Path) -> None:
    """A batch is waited for when enough requests for it were open at once lately: here seven."""
    model = f"filling-{how}"
    async with nothing_left(served):
        gate, first = await held(served, tmp_path, model)
        crowd = [first, *[await served.asking(b"crowd", model=model) for _ in range(6)]]
        await served.server.until_queued(model, 6)
        gate.open()
        for client in crowd:
            await answered(client)
        leaver, mate = [await served.asking(body, model=model) for body in (b"leaver", b"mate")]
        await served.server.until_queued(model, 2)
        leaver.leave(how)
        await served.server.until_queued(model, 1)
        mates = [mate, *[await served.asking(body, model=model) for body in (b"second", b"third")]]
        assert [await answered(client) for client in mates] == [b"mate", b"second", b"third"]
        assert all(body in served.runs_of("mate", model)[-1] for body in ("second", "third"))


@HOW
@pytest.mark.parametrize("answer", ["whole", "stream"])
async def test_running_job_costs_its_batch_mates_nothing(served: Models, answer: str, how: str, tmp_path: Path) -> None:
    workers = await served.server.worker_pids("shared")
    async with nothing_left(served):
        first_gate, first = await held(served, tmp_path, "shared")
        gate = Gate(tmp_path, answer)
        leaver = await served.asking(gate.body)
        await served.server.until_queued("shared", 1)
        mates = [await served.asking(b"mate"), await served.asking(b"other mate")]
        await served.server.until_queued("shared", 3)
        first_gate.open()
        await gate.reached()
        if answer == "stream":
            await leaver.read_until(b"begun")
        leaver.leave(how)
        await served.until_left(leaver)
        gate.open()
        assert [await answered(client) for client in (first, *mates)] == [first_gate.body, b"mate", b"other mate"]
        (batch,) = served.runs_of(str(gate.path))
        assert "other mate" in batch
    assert await served.server.worker_pids("shared") == workers
