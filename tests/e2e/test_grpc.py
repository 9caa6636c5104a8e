"""gRPC of a real server: a model of a worker is asked, scaled and described, and the stop waits for its calls."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.server import PATIENCE, Server, running, write_model
from torchserve_lite.protocols.grpc.messages import load_messages

_INFERENCE = "org.pytorch.serve.grpc.inference"
_MANAGEMENT = "org.pytorch.serve.grpc.management"
_HANDLER = """
import os, time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    if "pieces" in data[0]:
        for number in range(3):
            send_intermediate_predict_response([b"%d" % number], context.request_ids, "ok", 200, context)
        return [b"end"]
    if "gate" in data[0]:
        gate = bytes(data[0]["gate"]).decode()
        open(gate + ".entered", "w").close()
        while not os.path.exists(gate):
            time.sleep(0.01)
    return [b"got " + bytes(row["data"]) for row in data]
"""


class Client:
    """Speaks to one of the server's gRPC ports."""

    def __init__(self, server: Server, role: str, package: str, service: str) -> None:
        line = next(line for line in server.lines if line.startswith(f"listening: gRPC {role}"))
        self.channel = grpc.aio.insecure_channel(line.rpartition("://")[2])
        self._messages = load_messages()
        self._service = self._messages.pool.FindServiceByName(f"{package}.{service}")

    def call(self, method: str, **fields: Any) -> Any:
        described = self._service.methods_by_name[method]
        make: Any = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        answer = self._messages.named(described.output_type.full_name)
        multicallable = make(f"/{self._service.full_name}/{method}", response_deserializer=answer.FromString)
        request = self._messages.named(described.input_type.full_name)(**fields)
        return multicallable(request.SerializeToString(), timeout=PATIENCE)


def clients(server: Server) -> tuple[Client, Client]:
    return (
        Client(server, "inference", _INFERENCE, "InferenceAPIsService"),
        Client(server, "management", _MANAGEMENT, "ManagementAPIsService"),
    )


async def test_model_is_asked_and_managed_over_grpc(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "echo", _HANDLER)
    async with running(tmp_path, tmp_path / "store", {}) as server:
        inference, management = clients(server)
        assert json.loads((await inference.call("Ping")).health) == {"status": "Healthy"}
        answer = await inference.call("Predictions", model_name="echo", input={"data": b"7"})
        assert answer.prediction == b"got 7"
        stream = inference.call("StreamPredictions", model_name="echo", input={"pieces": b""})
        assert [piece.prediction async for piece in stream] == [b"0", b"1", b"2", b"end"]
        told = await management.call("ScaleWorker", model_name="echo", min_worker=2, synchronous=True)
        assert told.msg == "Workers scaled to 2 for model: echo"
        (described,) = json.loads((await management.call("DescribeModel", model_name="echo")).msg)
        assert [worker["status"] for worker in described["workers"]] == ["READY", "READY"]
        await asyncio.gather(inference.channel.close(), management.channel.close())
    access_log = (tmp_path / "logs" / "access_log.log").read_text()
    assert f'"gRPC {_INFERENCE}.InferenceAPIsService/Predictions HTTP/2.0" 0 ' in access_log


async def test_call_that_runs_when_the_server_is_stopped_is_answered(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "echo", _HANDLER)
    gate = tmp_path / "gate"
    async with running(tmp_path, tmp_path / "store", {}) as server:
        inference, _ = clients(server)
        call = inference.call("Predictions", model_name="echo", input={"data": b"7", "gate": os.fsencode(gate)})
        waiting = asyncio.ensure_future(call)
        while not Path(f"{gate}.entered").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        server.process.terminate()
        await server.line("^Stopping:")
        gate.touch()
        assert (await waiting).prediction == b"got 7"
        async with asyncio.timeout(PATIENCE):
            assert await server.process.wait() == 0
        await inference.channel.close()
