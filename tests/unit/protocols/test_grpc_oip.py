"""The Open Inference Protocol over gRPC, on real connections, beside its HTTP twin."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.conftest import KEY, Holder, deployment_of, failed_deployment
from torchserve_lite import __version__
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, WorkerState
from torchserve_lite.core.requests import Envelope, InferenceResponse
from torchserve_lite.errors import (
    WorkerDied,
)
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.kserve import EXTENSIONS
from torchserve_lite.protocols.tensors import TENSORS

from .grpc_front import GrpcFront, serving_grpc

PACKAGES = ("inference", "org.pytorch.serve.grpc.openinference")
TENSOR = {"name": "x", "datatype": "INT32", "shape": [2], "contents": {"int_contents": [7, 8]}}
SAME = {"name": "x", "datatype": "INT32", "shape": [2], "data": [7, 8]}


def echo_tensors(job: Job) -> None:
    body, tensors = job.request.parts
    document = json.loads(bytes(body.data))
    answer = {"model_name": KEY.name, "model_version": "1.0", "id": document.get("id"), "outputs": document["inputs"]}
    head = json.dumps(answer).encode()
    job.succeed(InferenceResponse(head + bytes(tensors.data), headers=((TENSORS, str(len(head))),)))


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with serving_grpc() as made:
        made.engine.answer = echo_tensors
        yield made


async def ask(front: GrpcFront, method: str, package: str = "inference", **facts: Any) -> Any:
    how = {name: facts.pop(name) for name in ("timeout", "metadata") if name in facts}
    service = f"{package}.GRPCInferenceService"
    request = front.inference.message(service, method, **facts)
    return await front.inference.call(service, method)(request, **how)


def stream(front: GrpcFront, requests: Any) -> Any:
    return front.inference.call("inference.GRPCInferenceService", "ModelStreamInfer")(requests)


def infer_request(front: GrpcFront, **facts: Any) -> Any:
    facts = {"model_name": "tiny", "inputs": [TENSOR], **facts}
    return front.inference.message("inference.GRPCInferenceService", "ModelInfer", **facts)


@pytest.mark.parametrize("package", PACKAGES)
async def test_typed_tensors_are_answered_with_typed_ones(front: GrpcFront, package: str) -> None:
    answer = await ask(front, "ModelInfer", package, model_name="tiny", id="42", inputs=[TENSOR])
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1.0", "42")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", "INT32", [2])
    assert list(output.contents.int_contents) == [7, 8]


@pytest.mark.parametrize("package", PACKAGES)
async def test_raw_tensors_are_answered_with_raw_ones(front: GrpcFront, package: str) -> None:
    tensor = {"name": "x", "datatype": "BF16", "shape": [1]}
    answer = await ask(front, "ModelInfer", package, model_name="tiny", inputs=[tensor], raw_input_contents=[b"\0\x40"])
    assert list(answer.raw_output_contents) == [b"\0\x40"]


async def test_job_is_that_of_the_twin(front: GrpcFront) -> None:
    """But for the client's headers."""
    await ask(front, "ModelInfer", model_name="tiny", model_version="2.0", id="42", inputs=[TENSOR])
    tensor = {"name": "x", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, "id": "42"}).encode()
    body, headers = head + struct.pack("<2i", 7, 8), {TENSORS: str(len(head))}
    await front.http.post("/v2/models/tiny/versions/2.0/infer", data=body, headers=headers)
    ours, twins = (job.request for job in front.engine.jobs)
    assert json.loads(bytes(ours.parts[0].data)) == json.loads(bytes(twins.parts[0].data))
    assert (ours.model, ours.version, ours.verb) == (twins.model, twins.version, twins.verb)
    assert ours.envelope == twins.envelope == Envelope.KSERVE_V2
    assert ours.parts[1] == twins.parts[1]
    assert ours.parts[0].content_type == twins.parts[0].content_type


async def test_request_with_a_bad_tensor_never_reaches_a_queue(front: GrpcFront) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(front, "ModelInfer", model_name="tiny", inputs=[{**TENSOR, "datatype": "INT64"}])
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert 'Tensor "x"' in str(refused.value.details())
    assert front.engine.jobs == []


@pytest.mark.parametrize("where", [{"name": "other"}, {"name": "tiny", "version": "3.0"}, {"name": ""}])
@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelInfer"])
async def test_unknown_model_is_not_found(front: GrpcFront, method: str, where: dict[str, str]) -> None:
    named = {f"model_{key}": value for key, value in where.items()} if method == "ModelInfer" else where
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(front, method, **named)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_status_that_a_handler_set_is_the_status_of_the_call(front: GrpcFront) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(b"no such row", 404))
    with pytest.raises(grpc.aio.AioRpcError, match="no such row") as refused:
        await ask(front, "ModelInfer", model_name="tiny", inputs=[TENSOR])
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_answer_without_tensors_is_the_models_fault(front: GrpcFront) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(b"7"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(front, "ModelInfer", model_name="tiny", inputs=[TENSOR])
    assert refused.value.code() == grpc.StatusCode.INTERNAL


async def test_deadline_of_the_client_is_the_jobs(front: GrpcFront) -> None:
    await ask(front, "ModelInfer", model_name="tiny", inputs=[TENSOR], timeout=100)
    (job,) = front.engine.jobs
    assert job.request.timeout is not None
    assert 90 < job.request.timeout < 101  # gRPC converts it between two clocks, a fraction of a millisecond apart


async def test_job_leaves_when_its_client_has_gone(front: GrpcFront) -> None:
    gone, taken = asyncio.Event(), asyncio.Event()

    def hold(job: Job) -> None:
        job.holder = Holder(lambda unwanted: gone.set())
        taken.set()

    front.engine.answer = hold
    service = "inference.GRPCInferenceService"
    call = front.inference.call(service, "ModelInfer")(infer_request(front))
    await asyncio.wait_for(taken.wait(), 20)
    call.cancel()
    await asyncio.wait_for(gone.wait(), 20)


@pytest.mark.parametrize("package", PACKAGES)
async def test_server_says_what_its_twin_says(front: GrpcFront, package: str) -> None:
    said = await ask(front, "ServerMetadata", package)
    assert (said.name, said.version, list(said.extensions)) == (
        "torchserve-lite",
        __version__,
        list(EXTENSIONS),
    )
    assert (await ask(front, "ServerLive", package)).live
    assert (await ask(front, "ServerReady", package)).ready
    assert (await ask(front, "ModelReady", package, name="tiny")).ready
    known = await ask(front, "ModelMetadata", package, name="tiny")
    twin = (await front.http.ask("GET", "/v2/models/tiny")).json
    assert (known.name, list(known.versions), known.platform) == (twin["name"], twin["versions"], twin["platform"])
    only = await ask(front, "ModelMetadata", package, name="tiny", version="2.0")
    assert list(only.versions) == ["2.0"]


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.FAILED])
async def test_model_without_workers_is_not_ready(front: GrpcFront, state: WorkerState) -> None:
    front.engine.states[KEY] = state
    assert not (await ask(front, "ModelReady", name="tiny")).ready
    assert (await ask(front, "ModelReady", name="tiny", version="2.0")).ready
    assert not (await ask(front, "ServerReady")).ready


async def test_requests_of_a_stream_are_answered_in_their_order(front: GrpcFront) -> None:
    """Though the second one is ready before the first, and one between them fails."""
    jobs: list[Job] = []

    def answer_backwards(job: Job) -> None:
        jobs.append(job)
        if len(jobs) == 2:
            for late in reversed(jobs):
                echo_tensors(late)

    front.engine.answer = answer_backwards
    bad = {**TENSOR, "datatype": "COMPLEX"}
    requests = [infer_request(front, id="1"), infer_request(front, id="2", inputs=[bad]), infer_request(front, id="3")]
    answers = [answer async for answer in stream(front, requests)]
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert "COMPLEX" in answers[1].error_message
    assert jobs[0].request.id != jobs[1].request.id


def in_pieces(job: Job) -> None:
    for text in (b"to", b"ken"):
        job.add_piece(InferenceResponse(text))
    answer = {"model_name": KEY.name, "id": "1", "outputs": [SAME]}  # in JSON: it can have no headers any more
    job.succeed(InferenceResponse(json.dumps(answer).encode()))


@pytest.mark.parametrize("raw", [True, False])
async def test_each_piece_of_an_answer_is_a_message(front: GrpcFront, raw: bool) -> None:
    front.engine.answer = in_pieces
    request = infer_request(front, id="1")
    if raw:
        request.inputs[0].ClearField("contents")
        request.raw_input_contents.append(struct.pack("<2i", 7, 8))
    answers = [answer.infer_response async for answer in stream(front, [request])]
    contents = [list(one.raw_output_contents) or list(one.outputs[0].contents.bytes_contents) for one in answers[:2]]
    assert contents == ([[b"\2\0\0\0to"], [b"\3\0\0\0ken"]] if raw else [[b"to"], [b"ken"]])
    assert (answers[2].outputs[0].name, answers[2].outputs[0].datatype) == ("x", "INT32")
    assert [(one.model_name, one.id) for one in answers] == [("tiny", "1")] * 3


async def test_only_a_stream_asks_for_pieces(front: GrpcFront) -> None:
    """A call for one answer gets it from the worker in one piece, whatever the handler does."""
    await ask(front, "ModelInfer", model_name="tiny", inputs=[TENSOR])
    assert [answer async for answer in stream(front, [infer_request(front)])]
    assert [job.request.in_pieces for job in front.engine.jobs] == [False, True]


async def test_answer_that_breaks_off_is_told_and_the_stream_goes_on(front: GrpcFront) -> None:
    def break_off(job: Job) -> None:
        if json.loads(bytes(job.request.parts[0].data))["id"] == "1":
            job.add_piece(InferenceResponse(b"to"))
            job.fail(WorkerDied("shot"))
        else:
            echo_tensors(job)

    front.engine.answer = break_off
    requests = [infer_request(front, id="1"), infer_request(front, id="2")]
    answers = [answer async for answer in stream(front, requests)]
    assert [(one.infer_response.id, one.error_message) for one in answers] == [
        ("1", ""),
        ("1", "Worker died. shot"),
        ("2", ""),
    ]


async def test_jobs_of_a_stream_leave_when_their_client_has_gone(front: GrpcFront) -> None:
    """One that waits, and one that has begun to be answered behind it."""
    gone: list[Job] = []
    both, taken = asyncio.Event(), asyncio.Event()

    def leave(job: Job) -> None:
        gone.append(job)
        if len(gone) == 2:
            both.set()

    def hold(job: Job) -> None:
        job.holder = Holder(leave)
        if len(front.engine.jobs) == 2:
            job.add_piece(InferenceResponse(b"to"))
            asyncio.get_running_loop().call_later(0, taken.set)

    front.engine.answer = hold
    call = stream(front, [infer_request(front), infer_request(front)])
    await asyncio.wait_for(taken.wait(), 20)
    call.cancel()
    await asyncio.wait_for(both.wait(), 20)


def indexed(index: Any) -> list[tuple[str, str, str]]:
    return [(model.name, model.version, model.state) for model in index.models]


async def test_index_has_what_is_served_and_what_could_be(front: GrpcFront) -> None:
    front.engine.states[KEY] = WorkerState.STARTING
    front.http.registry.unopened.append(failed_deployment("broken", "no zip file"))
    index = await ask(front, "RepositoryIndex")
    assert indexed(index) == [
        ("tiny", "1.0", "LOADING"),
        ("tiny", "2.0", "READY"),
        ("broken", "", "UNAVAILABLE"),
        ("new", "", "UNAVAILABLE"),
    ]
    assert "no zip file" in index.models[2].reason
    assert indexed(await ask(front, "RepositoryIndex", ready=True)) == [("tiny", "2.0", "READY")]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param({"repository_name": "new"}, id="KServe's dialect"),
        pytest.param({"model_name": "new"}, id="Triton's dialect"),
        pytest.param({"repository_name": "main", "model_name": "new"}, id="Triton's with a repository"),
    ],
)
async def test_model_of_the_store_is_loaded(front: GrpcFront, package: str, request_of: dict[str, str]) -> None:
    loaded = await ask(front, "RepositoryModelLoad", package, **request_of)
    assert (loaded.model_name, loaded.isLoaded) == ("new", True)
    (options,) = front.http.manager.registered
    assert (options.url, options.name) == ("new.mar", "new")


async def test_every_version_of_a_model_is_unloaded(front: GrpcFront) -> None:
    unloaded = await ask(front, "RepositoryModelUnload", repository_name="tiny")
    assert (unloaded.model_name, unloaded.isUnloaded) == ("tiny", True)
    assert front.http.manager.unregistered == [("tiny", "2.0"), ("tiny", "1.0")]


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_unknown_model_is_neither_loaded_nor_unloaded(front: GrpcFront, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(front, method, model_name="other")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_nothing_is_loaded_or_unloaded_where_the_model_api_is_off(method: str) -> None:
    async with serving_grpc(access=Access(AccessConfig(tokens=False, model_api=False))) as front:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(front, method, model_name="tiny")
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert (front.http.manager.registered, front.http.manager.unregistered) == ([], [])


METHODS = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ModelReady"), Door.OPEN),
    **dict.fromkeys(("ServerMetadata", "ModelMetadata", "ModelInfer"), Door.INFERENCE),
    **dict.fromkeys(("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"), Door.MANAGEMENT),
}


def accesses() -> Iterator[Any]:
    for method, needed in METHODS.items():
        for door in (Door.OPEN, Door.INFERENCE, Door.MANAGEMENT):
            yield pytest.param(method, door, needed in (Door.OPEN, door), id=f"{method} by {door.name}")


@pytest.mark.parametrize(("method", "door", "admitted"), list(accesses()))
async def test_each_method_has_its_door(method: str, door: Door, admitted: bool) -> None:
    access = Access(AccessConfig(tokens=True, model_api=True))
    async with serving_grpc(access=access) as front:
        front.engine.answer = echo_tensors
        facts: dict[str, Any] = {"name": "tiny"} if method in ("ModelReady", "ModelMetadata") else {}
        if method in ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload"):
            facts["model_name"] = "tiny"
        if method == "ModelInfer":
            facts["inputs"] = [TENSOR]
        if door is not Door.OPEN:
            facts["metadata"] = (("authorization", f"Bearer {access._keys[door].text}"),)
        try:
            await ask(front, method, **facts)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
    assert code == (grpc.StatusCode.OK if admitted else grpc.StatusCode.UNAUTHENTICATED)


async def test_several_versions_answer_by_their_numbers(front: GrpcFront) -> None:
    front.http.registry.add(deployment_of(key=ModelKey("tiny", "3")))
    await ask(front, "ModelInfer", model_name="tiny", model_version="3", inputs=[TENSOR])
    assert front.engine.jobs[0].key == ModelKey("tiny", "3")
