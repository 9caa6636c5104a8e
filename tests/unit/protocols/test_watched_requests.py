"""Every way on which a request comes in tells, once, that it is over."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.telemetry.test_ended_requests import Ears
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import QueueFull
from torchserve_lite.telemetry.ended_requests import EndedRequest

from .conftest import Front
from .grpc_front import GrpcFront, serving_grpc

TORCHSERVE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"


class Heard(asyncio.Queue[EndedRequest]):
    """A listener whose test waits for what it is told."""

    def begins(self, request: InferenceRequest) -> bool:
        return True

    ended = asyncio.Queue.put_nowait


@pytest.fixture
def heard(front: Front) -> Heard:
    heard = Heard()
    front.watch.listeners.append(heard)
    return heard


@pytest.mark.parametrize("query", ["", "?aiohttp"])
async def test_http_tells_what_was_answered(front: Front, heard: Heard, query: str) -> None:
    answer = await front.post(f"/predictions/tiny{query}")
    ended = await heard.get()
    assert ended.id == answer.headers["x-request-id"]
    assert (ended.asked, ended.status) == (f"POST /predictions/tiny{query} HTTP/1.1", 200)
    assert [run.model.name for run in ended.runs] == ["tiny"]
    assert heard.empty()


@pytest.mark.parametrize("query", ["", "?aiohttp"])
async def test_http_tells_what_was_refused(front: Front, heard: Heard, query: str) -> None:
    front.engine.refusal = QueueFull("tiny", 1)
    await front.post(f"/predictions/tiny{query}")
    ended = await heard.get()
    assert (ended.status, ended.error) == (503, "QueueFull")


@pytest.mark.parametrize("query", ["", "?aiohttp"])
async def test_http_tells_of_a_client_that_has_left(front: Front, heard: Heard, query: str) -> None:
    asked = asyncio.Event()
    front.engine.answer = lambda job: asked.set()
    asking = asyncio.create_task(front.post(f"/predictions/tiny{query}"))
    await asked.wait()
    asking.cancel()
    assert (await heard.get()).status is None


@pytest.mark.parametrize("query", ["", "?aiohttp"])
async def test_streamed_answer_is_over_with_its_last_piece(front: Front, heard: Heard, query: str) -> None:
    front.engine.answer = lambda job: job.add_piece(InferenceResponse(b"1"))
    async with front.client.post(f"{front.url}/predictions/tiny{query}", data=b"7") as response:
        assert heard.empty()
        (job,) = front.engine.jobs
        job.succeed(InferenceResponse(b"2"))
        await response.read()
    ended = await heard.get()
    assert ended.status == 200
    assert ended.runs[0].seconds <= ended.seconds


async def test_grpc_tells_what_was_answered() -> None:
    async with serving_grpc() as front:
        heard = Heard()
        front.http.watch.listeners.append(heard)
        await front.infer("Predictions", model_name="tiny", input={"data": b"7"})
        ended = await heard.get()
    assert (ended.asked, ended.status) == (f"gRPC {TORCHSERVE}/Predictions HTTP/2.0", 0)
    assert len(ended.runs) == 1


async def test_grpc_tells_of_each_request_of_a_stream_and_of_those_that_are_left_at_its_end() -> None:
    async with serving_grpc() as front:
        ears = Ears()
        front.http.watch.listeners.append(ears)
        stream = front.inference.call(TORCHSERVE, "StreamPredictions2")()
        await stream.write(message(front))
        await stream.read()
        begun = asyncio.Event()
        front.engine.answer = lambda job: begun.set()
        await stream.write(message(front))
        await begun.wait()
    answered, left = ears.heard
    assert (answered.status, answered.error, left.error) == (0, "", "")


def message(front: GrpcFront) -> object:
    fields = {"model_name": "tiny", "input": {"data": b"7"}, "sequence_id": "s"}
    return front.inference.message(TORCHSERVE, "StreamPredictions2", **fields)
