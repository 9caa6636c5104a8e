"""Sequences of a real server: over HTTP and gRPC, with headers of the operator's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from tests.e2e.server import PATIENCE, Server, running, write_model
from torchserve_lite.protocols.grpc.messages import load_messages

_SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_SETTINGS = {
    "ts_header_key_sequence_id": "X-Session",
    "ts_header_key_sequence_start": "X-Session-Start",
    "ts_header_key_sequence_end": "X-Session-End",
}
_CONFIG = """
minWorkers: 2
maxWorkers: 4
batchSize: 2
maxBatchDelay: 10
sequenceBatching: true
sequenceMaxIdleMSec: 60000
sequenceTimeoutMSec: 600000
maxNumSequence: 2
maxSequenceJobQueueSize: 3
"""
_HANDLER = """
import os

SUMS = {}

def handle(data, context):
    if data is None:
        return None
    return [add(context, index, bytes(row.get("body") or row.get("data"))) for index, row in enumerate(data)]

def add(context, index, number):
    sequence = context.get_sequence_id(index)
    started = context.get_request_header(index, context.header_key_sequence_start) == "true"
    SUMS[sequence] = int(number) + (0 if started else SUMS.get(sequence, 0))
    context.set_response_header(index, context.header_key_sequence_id, sequence)
    return f"{os.environ['TS_REQUEST_SEQUENCE_ID']} {SUMS[sequence]}"
"""


async def ask(server: Server, number: int, **headers: str) -> tuple[int, str, str]:
    """Status, answer and the name of its sequence."""
    named = {f"X-Session{name}": value for name, value in headers.items()}
    async with server.client.post(f"{server.url}/predictions/sums", data=str(number).encode(), headers=named) as answer:
        return answer.status, await answer.text(), answer.headers.get("X-Session", "")


class GrpcClient:
    def __init__(self, server: Server) -> None:
        line = next(line for line in server.lines if line.startswith("listening: gRPC inference"))
        self.channel = grpc.aio.insecure_channel(line.rpartition("://")[2])
        messages = load_messages()
        self._request = messages.named("org.pytorch.serve.grpc.inference.PredictionsRequest")
        self._answer = messages.named("org.pytorch.serve.grpc.inference.PredictionResponse")

    def request(self, number: int, **facts: Any) -> bytes:
        inputs = {"data": str(number).encode(), **facts.pop("flags", {})}
        encoded: bytes = self._request(model_name="sums", input=inputs, **facts).SerializeToString()
        return encoded

    def predictions(self, number: int, **facts: Any) -> Any:
        method: Any = self.channel.unary_unary(
            f"/{_SERVICE}/Predictions", response_deserializer=self._answer.FromString
        )
        return method(self.request(number, **facts), timeout=PATIENCE)

    def stream(self) -> Any:
        method: Any = self.channel.stream_stream(
            f"/{_SERVICE}/StreamPredictions2", response_deserializer=self._answer.FromString
        )
        return method(timeout=PATIENCE)


async def test_sequences_over_http_and_grpc(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "sums", _HANDLER, config=_CONFIG)
    async with running(tmp_path, tmp_path / "store", _SETTINGS) as server:
        described = await server.describe("sums")
        shown = ("stateful", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize")
        assert [described[name] for name in shown] == [True, 60000, 600000, 2, 3]
        assert len(described["workers"]) == 2

        status, answer, name = await ask(server, 5)
        assert (status, answer, name[:7]) == (200, "X-Session 5", "ts-seq-")
        assert (await ask(server, 7, **{"": name}))[:2] == (200, "X-Session 12")

        client = GrpcClient(server)
        assert (await client.predictions(3, sequence_id="g")).prediction == b"X-Session 3"
        status, answer, _ = await ask(server, 1, **{"": "one too many"})
        assert status == 503
        assert "(maxNumSequence: 2)" in answer
        stream = client.stream()
        await stream.write(client.request(1, sequence_id="one too many"))
        refused = (await stream.read()).status
        assert (refused.code, "(maxNumSequence: 2)" in refused.message) == (8, True)  # RESOURCE_EXHAUSTED

        for number in (4, 5):  # the stream goes on, and so does the sequence of the call
            await stream.write(client.request(number, sequence_id="g"))
        await stream.write(client.request(6, sequence_id="g", flags={"X-Session-End": b"true"}))
        await stream.done_writing()
        answers = [await stream.read() for _ in range(3)]
        assert [answer.prediction for answer in answers] == [b"X-Session 7", b"X-Session 12", b"X-Session 18"]

        assert (await ask(server, 1, **{"": name, "-End": "true"}))[:2] == (200, "X-Session 13")
        call = client.predictions(9)  # which begins a sequence, as over HTTP; the other two have ended
        assert (await call).prediction == b"X-Session 9"
        assert dict(await call.trailing_metadata())["x-session"].startswith("ts-seq-")
        await client.channel.close()
