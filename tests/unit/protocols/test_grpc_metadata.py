"""What goes with a gRPC call besides its message, to the handler and back: what HTTP's headers are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import Headers, InferenceResponse
from torchserve_lite.ipc.messages import encoded_headers
from torchserve_lite.protocols.grpc.metadata import client_metadata, told_to_client

from .grpc_front import INFERENCE, GrpcFront, serving_grpc
from .test_grpc_oip import TENSOR, echo_tensors

TORCHSERVE = (f"{INFERENCE}.InferenceAPIsService", "Predictions", {"input": {"data": b"7"}})
KSERVE = ("inference.GRPCInferenceService", "ModelInfer", {"inputs": [TENSOR]})
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(60), serving_grpc() as made:
        made.engine.answer = lambda job: answer(job, ())
        yield made


def answer(job: Job, headers: Headers) -> None:
    """As either service wants it, with headers of the handler."""
    if job.request.parts[0].name == "data":
        job.succeed(InferenceResponse(b"7", headers=headers))
        return
    echo_tensors(job)
    outcome = job.answer.result()
    outcome.headers += headers


async def ask(front: GrpcFront, what: tuple[str, str, dict[str, Any]], *metadata: tuple[str, Any], **how: Any) -> Any:
    """The call, when it has been answered."""
    service, method, facts = what
    request = front.inference.message(service, method, model_name="tiny", **facts)
    call = front.inference.call(service, method)(request, metadata=metadata, **how)
    await call
    return call


@pytest.mark.parametrize("what", [TORCHSERVE, KSERVE], ids=["TorchServe", "KServe"])
async def test_handler_sees_metadata_as_headers_but_for_the_token_and_what_is_grpcs(
    front: GrpcFront, what: tuple[str, str, dict[str, Any]]
) -> None:
    sent = (("x-request-id", "mine"), ("traceparent", TRACE), ("tracestate", "a=b"), ("x-a", "1"), ("x-a", "2"))
    hidden = (("authorization", "Bearer secret"), ("grpc-previous-rpc-attempts", "1"), ("picture-bin", b"\xff"))
    await ask(front, what, *sent, *hidden)
    (job,) = front.engine.jobs
    seen = [pair for pair in job.request.headers if pair[0] != "user-agent"]
    assert sorted(seen) == sorted(sent)  # gRPC sends names that it knows first
    assert job.request.encoded_headers == encoded_headers(job.request.headers)
    assert job.request.trace_context == TRACE
    assert job.request.id != "mine"


async def test_sequence_of_the_message_is_the_one_that_counts(front: GrpcFront) -> None:
    service, method, facts = TORCHSERVE
    await ask(front, (service, method, {**facts, "sequence_id": "s"}), ("ts_request_sequence_id", "other"))
    (job,) = front.engine.jobs
    assert [value for name, value in job.request.headers if name == "ts_request_sequence_id"] == ["s"]
    assert not job.request.encoded_headers


@pytest.mark.parametrize("what", [TORCHSERVE, KSERVE], ids=["TorchServe", "KServe"])
@pytest.mark.parametrize(
    ("said", "deadline", "least", "most"),
    [
        pytest.param("5000", None, 5, 5, id="only said"),
        pytest.param("5000", 50, 5, 5, id="said is less"),
        pytest.param("500000", 50, 40, 51, id="deadline is less"),
    ],
)
async def test_job_has_the_shorter_of_the_time_that_is_said_and_the_deadline(
    front: GrpcFront, what: tuple[str, str, dict[str, Any]], said: str, deadline: float | None, least: int, most: int
) -> None:
    await ask(front, what, ("x-request-timeout-ms", said), timeout=deadline)
    (job,) = front.engine.jobs
    assert job.request.timeout is not None
    assert least <= job.request.timeout <= most


@pytest.mark.parametrize("what", [TORCHSERVE, KSERVE], ids=["TorchServe", "KServe"])
async def test_time_that_is_none_is_a_bad_request(front: GrpcFront, what: tuple[str, str, dict[str, Any]]) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="X-Request-Timeout-Ms is 'soon'") as refused:
        await ask(front, what, ("x-request-timeout-ms", "soon"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_time_that_is_said_ends_the_call(front: GrpcFront) -> None:
    front.engine.answer = lambda job: None
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await ask(front, TORCHSERVE, ("x-request-timeout-ms", "20"))
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("what", [TORCHSERVE, KSERVE], ids=["TorchServe", "KServe"])
async def test_headers_of_the_handler_come_with_the_end_of_the_call(
    front: GrpcFront, what: tuple[str, str, dict[str, Any]]
) -> None:
    front.engine.answer = lambda job: answer(job, (("X-Model-Took", "3 ms"), ("Content-Length", "9")))
    told = dict(list(await (await ask(front, what)).trailing_metadata()))
    assert told == {"x-request-id": front.engine.jobs[0].request.id, "x-model-took": "3 ms"}


async def test_headers_of_a_handler_that_answers_with_an_error_come_too(front: GrpcFront) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(b"no", 404, headers=(("X-Why", "because"),)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(front, KSERVE)
    assert dict(list(refused.value.trailing_metadata() or ()))["x-why"] == "because"


async def test_headers_come_after_the_pieces_of_a_streamed_answer(front: GrpcFront) -> None:
    def stream(job: Job) -> None:
        job.add_piece(InferenceResponse(b"1", headers=(("X-Model-Took", "3 ms"),)))
        job.succeed(InferenceResponse(b"2"))

    front.engine.answer = stream
    service, _, facts = TORCHSERVE
    request = front.inference.message(service, "StreamPredictions", model_name="tiny", **facts)
    call = front.inference.call(service, "StreamPredictions")(request)
    assert [piece.prediction async for piece in call] == [b"1", b"2"]
    assert dict(list(await call.trailing_metadata()))["x-model-took"] == "3 ms"


@pytest.mark.parametrize(
    ("header", "told"),
    [
        pytest.param(("X-Took", "3"), ("x-took", "3"), id="lower case"),
        pytest.param(("X-Took", "3\r\nX-Other: 4"), ("x-took", "3  X-Other: 4"), id="line break"),
        pytest.param(("X-City", "K\u00f6ln"), ("x-city", "K%C3%B6ln"), id="not ASCII"),
        pytest.param(("X Took", "3"), None, id="no name"),
        pytest.param((":path", "3"), None, id="pseudo header"),
        pytest.param(("grpc-status", "0"), None, id="gRPC's own"),
        pytest.param(("x-picture-bin", "3"), None, id="name of bytes"),
        pytest.param(("Content-Type", "text/plain"), None, id="content type"),
        pytest.param(("X-Request-Id", "3"), None, id="ours"),
    ],
)
def test_headers_are_told_as_grpc_can_send_them(header: tuple[str, str], told: tuple[str, str] | None) -> None:
    assert told_to_client((header,)) == ([] if told is None else [told])


def test_no_more_headers_are_told_than_clients_take() -> None:
    told = told_to_client(tuple((f"x-{number}", "1" * 100) for number in range(1000)))
    assert told[0] == ("x-0", "1" * 100)
    assert sum(len(name) + len(value) + 32 for name, value in told) < 4096


def test_metadata_that_comes_again_is_read_once() -> None:
    one = client_metadata((("x-a", "1"), ("authorization", "Bearer k")))
    assert client_metadata((("x-a", "1"), ("authorization", "Bearer k"))) is one
    assert one.authorization == "Bearer k"
