"""TorchServe's inference service over gRPC, on real connections: what HTTP answers, in gRPC's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from tests.conftest import Holder
from torchserve_lite import errors
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceResponse, Part
from torchserve_lite.errors import ServingError

from .conftest import LIMIT
from .grpc_front import INFERENCE, GrpcClient, GrpcFront, serving_grpc

SERVICE = f"{INFERENCE}.InferenceAPIsService"
PATIENCE = 60.0  # seconds after which a test has failed


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(PATIENCE), serving_grpc() as made:
        yield made


def silent(came: asyncio.Event) -> Callable[[Job], None]:
    def answer(job: Job) -> None:
        came.set()

    return answer


def in_pieces(*pieces: bytes, error: ServingError | None = None) -> Callable[[Job], None]:
    def answer(job: Job) -> None:
        for piece in pieces:
            job.add_piece(InferenceResponse(piece))
        if error is None:
            job.succeed(InferenceResponse(b""))
        else:
            job.fail(error)

    return answer


SEQUENCE = {"StreamPredictions2": {"sequence_id": "one"}}


async def all_read(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def abandoned(job: Job) -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.shield(job.answer)
    assert not job.wanted


async def test_handler_gets_the_inputs_by_name_as_bytes(front: GrpcFront) -> None:
    await front.infer("Predictions", model_name="tiny", model_version="2.0", input={"data": b"7", "more": b"\xff"})
    (job,) = front.engine.jobs
    assert job.key == ModelKey("tiny", "2.0")
    parts = sorted(job.request.parts, key=lambda part: part.name)
    assert parts == [Part("data", b"7"), Part("more", b"\xff")]


async def all_of(client: GrpcClient, method: str, request: Any, **how: Any) -> list[bytes]:
    """The predictions in the answer, however many messages that has."""
    answering = client.call(SERVICE, method)(request, **how)
    if method == "Predictions":
        return [(await answering).prediction]
    return [message.prediction async for message in answering]


async def test_unexpected_error_is_told_without_its_text_and_logged(
    front: GrpcFront, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: Job) -> None:
        raise ValueError("secret")

    front.engine.answer = fail
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions", model_name="tiny")
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (failed.value.details() or "")
    assert "secret" in caplog.text


async def test_refusal_says_when_to_come_back_and_which_request_it_was(front: GrpcFront) -> None:
    front.engine.refusal = errors.QueueFull("tiny", 2)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions", model_name="tiny")
    told = dict(failed.value.trailing_metadata() or ())
    assert told["retry-after"] == "1"
    assert len(str(told["x-request-id"])) == 36


async def test_prediction_without_a_model_is_a_bad_request(front: GrpcFront) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "model_name" in (failed.value.details() or "")


async def test_bytes_that_are_no_message_are_a_bad_request(front: GrpcFront) -> None:
    predict: Any = front.inference.channel.unary_unary(f"/{SERVICE}/Predictions")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await predict(b"\xff\xff\xff")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await front.infer("Predictions", model_name="tiny", input={"data": b"7"})).prediction == b"7"


async def test_message_above_the_limit_is_refused_and_the_connection_goes_on(front: GrpcFront) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions", model_name="tiny", input={"data": bytes(LIMIT + 1)})
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert front.engine.jobs == []
    assert (await front.infer("Predictions", model_name="tiny", input={"data": b"7"})).prediction == b"7"


async def test_deadline_of_the_client_is_the_jobs_and_ends_it(front: GrpcFront) -> None:
    came = asyncio.Event()
    front.engine.answer = silent(came)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions", model_name="tiny", timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (job,) = front.engine.jobs
    assert job.request.timeout is not None
    assert 0 < job.request.timeout < 0.4  # gRPC converts it between two clocks, a fraction of a millisecond apart
    with pytest.raises((asyncio.CancelledError, errors.DeadlineExceeded)):
        await asyncio.shield(job.answer)
    assert not job.wanted


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
async def test_job_is_abandoned_when_the_client_cancels(front: GrpcFront, method: str) -> None:
    came = asyncio.Event()
    front.engine.answer = silent(came)
    request = front.inference.message(SERVICE, method, model_name="tiny")
    calling = asyncio.create_task(all_of(front.inference, method, request))
    await came.wait()
    calling.cancel()
    await abandoned(front.engine.jobs[0])


async def test_streams_are_whole_and_in_order_while_a_third_of_200_clients_leaves(front: GrpcFront) -> None:
    left: list[Job] = []
    all_there, all_left = asyncio.Event(), asyncio.Event()

    def leave(job: Job) -> None:
        left.append(job)
        if len(left) == 67:
            all_left.set()

    def begin(job: Job) -> None:
        job.holder = Holder(leave)
        job.add_piece(InferenceResponse(b"0"))
        if len(front.engine.jobs) == 200:
            all_there.set()

    async def read(number: int) -> list[bytes]:
        request = front.inference.message(SERVICE, "StreamPredictions", model_name="tiny")
        stream = front.inference.call(SERVICE, "StreamPredictions")(request)
        pieces = []
        while (message := await stream.read()) is not grpc.aio.EOF:
            pieces.append(message.prediction)
            if number % 3 == 0:
                stream.cancel()
                break
        return pieces

    front.engine.answer = begin
    reading = [asyncio.create_task(read(number)) for number in range(200)]
    await asyncio.gather(all_there.wait(), all_left.wait())
    for job in front.engine.jobs:
        if job not in left:
            for number in range(1, 10):
                job.add_piece(InferenceResponse(b"%d" % number))
            job.succeed(InferenceResponse(b""))
    whole = [b"%d" % number for number in range(10)]
    assert await asyncio.gather(*reading) == [whole[:1] if n % 3 == 0 else whole for n in range(200)]


async def test_handler_is_stopped_when_the_client_leaves_in_the_middle_of_a_stream(front: GrpcFront) -> None:
    front.engine.answer = lambda job: job.add_piece(InferenceResponse(b"1"))
    request = front.inference.message(SERVICE, "StreamPredictions", model_name="tiny")
    stream = front.inference.call(SERVICE, "StreamPredictions")(request)
    assert (await stream.read()).prediction == b"1"
    (job,) = front.engine.jobs
    gone = asyncio.Event()
    job.holder = Holder(lambda unwanted: gone.set())
    stream.cancel()
    await gone.wait()
    assert not job.wanted


@pytest.mark.parametrize(
    ("method", "answers"),
    [("Predictions", [b"123"]), ("StreamPredictions", [b"1", b"2", b"3"])],
)
async def test_streamed_answer_comes_in_pieces_or_whole_as_is_asked_for(
    front: GrpcFront, method: str, answers: Sequence[bytes]
) -> None:
    front.engine.answer = in_pieces(b"1", b"2", b"3")
    request = front.inference.message(SERVICE, method, model_name="tiny")
    assert await all_of(front.inference, method, request) == answers
    assert (await front.http.post("/predictions/tiny")).body == b"123"


async def test_answer_in_one_piece_is_a_stream_of_one(front: GrpcFront) -> None:
    """TorchServe kills the worker."""
    request = front.inference.message(SERVICE, "StreamPredictions", model_name="tiny", input={"data": b"7"})
    assert await all_of(front.inference, "StreamPredictions", request) == [b"7"]


async def test_streamed_answer_that_is_too_large_for_one_message_is_refused(front: GrpcFront) -> None:
    front.engine.answer = in_pieces(bytes(LIMIT), b"1")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.infer("Predictions", model_name="tiny")
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "StreamPredictions" in (failed.value.details() or "")


async def test_stream_that_breaks_off_ends_with_the_cause(front: GrpcFront) -> None:
    front.engine.answer = in_pieces(b"1", error=errors.WorkerDied("It was shot."))
    request = front.inference.message(SERVICE, "StreamPredictions", model_name="tiny")
    stream = front.inference.call(SERVICE, "StreamPredictions")(request)
    assert (await stream.read()).prediction == b"1"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stream.read()
    assert failed.value.details() == "Worker died. It was shot.\nInternalServerException"


@pytest.mark.parametrize("method", ["StreamPredictions", "StreamPredictions2"])
async def test_client_that_never_reads_what_is_streamed_frees_the_worker_and_is_told(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    went = asyncio.Event()

    def answer(job: Job) -> None:
        job.holder = Holder(lambda unwanted: went.set())
        for _ in range(30):
            job.add_piece(InferenceResponse(b"x" * 1_000_000))

    async with asyncio.timeout(PATIENCE), serving_grpc(slow_client_seconds=0.05, slow_client_rate=1e9) as front:
        front.engine.answer = answer
        request = front.inference.message(SERVICE, method, model_name="tiny", **SEQUENCE.get(method, {}))
        call = front.inference.call(SERVICE, method)(iter([request]) if method in SEQUENCE else request)
        await went.wait()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "is cut off" in caplog.text
        with pytest.raises(grpc.aio.AioRpcError, match="slow_client_seconds"):
            await all_read(call)


async def test_requests_of_a_stream_are_answered_after_the_client_is_done(front: GrpcFront) -> None:
    """TorchServe loses what is answered later."""
    stream = front.inference.call(SERVICE, "StreamPredictions2")()
    for number in range(3):
        await stream.write(sequence_request(front, "s", str(number).encode()))
    await stream.done_writing()
    answers = [(answer.sequence_id, answer.prediction) async for answer in stream]
    assert answers == [("s", b"0"), ("s", b"1"), ("s", b"2")]
    assert {sequence_of(job) for job in front.engine.jobs} == {"s"}


def sequence_of(job: Job) -> str:
    """As the handler sees it."""
    (sequence,) = [value for name, value in job.request.headers if name == "ts_request_sequence_id"]
    return sequence


def sequence_request(front: GrpcFront, sequence: str, data: bytes = b"7", model: str = "tiny") -> Any:
    fields = {"model_name": model, "input": {"data": data}, "sequence_id": sequence}
    return front.inference.message(SERVICE, "StreamPredictions2", **fields)


async def test_requests_of_one_sequence_wait_for_each_other_and_those_of_others_do_not(front: GrpcFront) -> None:
    front.engine.answer = lambda job: None if sequence_of(job) == "a" else job.succeed(InferenceResponse(b"b"))
    stream = front.inference.call(SERVICE, "StreamPredictions2")()
    for sequence in ("a", "a", "b"):
        await stream.write(sequence_request(front, sequence))
    assert (await stream.read()).sequence_id == "b"
    first, second = front.engine.jobs
    assert [sequence_of(first), sequence_of(second)] == ["a", "b"]
    first.succeed(InferenceResponse(b"a"))
    assert (await stream.read()).sequence_id == "a"
    stream.cancel()


async def test_handler_is_told_of_the_end_of_a_sequence_when_the_client_says_so(front: GrpcFront) -> None:
    """TorchServe says it of each request."""
    stream = front.inference.call(SERVICE, "StreamPredictions2")()
    for flags in ({}, {"ts_request_sequence_start": b"true"}, {"ts_request_sequence_end": b"true"}):
        inputs = {"data": b"7", **flags}
        request = front.inference.message(
            SERVICE, "StreamPredictions2", model_name="tiny", input=inputs, sequence_id="s"
        )
        await stream.write(request)
        await stream.read()
    stream.cancel()
    told = [[name for name, _ in job.request.headers if name.startswith("ts_")] for job in front.engine.jobs]
    own = "ts_request_sequence_id"
    assert told == [[own], [own, "ts_request_sequence_start"], [own, "ts_request_sequence_end"]]


async def test_each_request_of_a_stream_has_an_id_of_its_own(front: GrpcFront) -> None:
    """Handlers keep things by it, and several of one stream may be in a batch."""
    stream = front.inference.call(SERVICE, "StreamPredictions2")()
    for sequence in ("a", "b"):
        await stream.write(sequence_request(front, sequence))
        await stream.read()
    stream.cancel()
    assert len({job.request.id for job in front.engine.jobs}) == 2


@pytest.mark.parametrize(
    ("sequence", "model", "code", "reason"),
    [
        pytest.param("", "tiny", grpc.StatusCode.INVALID_ARGUMENT, "BadRequestException", id="no sequence"),
        pytest.param("s", "nope", grpc.StatusCode.NOT_FOUND, "ModelNotFoundException", id="no such model"),
    ],
)
async def test_failure_within_a_stream_is_told_in_its_message_and_the_stream_goes_on(
    front: GrpcFront, sequence: str, model: str, code: grpc.StatusCode, reason: str
) -> None:
    stream = front.inference.call(SERVICE, "StreamPredictions2")()
    await stream.write(sequence_request(front, sequence, model=model))
    status = (await stream.read()).status
    assert status.code == code.value[0]
    info = front.messages.named("google.rpc.ErrorInfo")()
    assert status.details[0].Unpack(info)
    assert info.reason == reason
    await stream.write(sequence_request(front, "s"))
    assert (await stream.read()).prediction == b"7"
    stream.cancel()


async def test_every_call_has_its_line_in_the_access_log(front: GrpcFront) -> None:
    await front.infer("Ping")
    with pytest.raises(grpc.aio.AioRpcError):
        await front.infer("Predictions", model_name="nope")
    front.http.access_log.flush()
    ping, predictions = front.http.log
    assert f' - /127.0.0.1:{ping.split(":")[3].split(" ")[0]} "gRPC {SERVICE}/Ping HTTP/2.0" 0 ' in ping
    assert f'"gRPC {SERVICE}/Predictions HTTP/2.0" 5 ' in predictions


async def test_unknown_method_is_unimplemented(front: GrpcFront) -> None:
    explain: Any = front.inference.channel.unary_unary(f"/{SERVICE}/Explain")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await explain(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
