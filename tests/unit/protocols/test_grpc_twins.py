"""Every method of the gRPC services beside its HTTP twin, on one server: the same answer, and the same error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest

from tests.conftest import KEY
from torchserve_lite import errors
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import WorkerState
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import ServingError

from .conftest import Answer
from .grpc_front import INFERENCE, MANAGEMENT, GrpcFront, serving_grpc
from .test_grpc_oip import PACKAGES, SAME, TENSOR

PREDICTIONS = f"{INFERENCE}.InferenceAPIsService"
MODELS = f"{MANAGEMENT}.ManagementAPIsService"
KSERVE = tuple(f"{package}.GRPCInferenceService" for package in PACKAGES)


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A call, and the request of HTTP that stands for the same. ``said`` and ``told`` take from the call's messages and
    from HTTP's answer what has to be equal. A failure has a ``code``; the engine raises or answers ``error``."""

    service: str
    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    verb: str
    path: str
    body: bytes | None = None
    said: Callable[[Sequence[Any]], object] = lambda messages: messages[0].msg
    told: Callable[[Answer], object] = lambda answer: answer.body.decode()
    code: str = "OK"
    error: ServingError | None = None
    named: str = ""

    @property
    def id(self) -> str:
        package = self.service.rpartition(".")[0].rpartition(".")[2]
        return " ".join((package, self.method, self.named or type(self.error).__name__ * bool(self.error)))


# Answers

INPUT = {"model_name": "tiny", "input": {"data": b"7"}}
SEQUENCE = {**INPUT, "sequence_id": "s"}
TENSORS = {"model_name": "tiny", "inputs": [TENSOR]}
V2_BODY = json.dumps({"inputs": [SAME]}).encode()
V2_ANSWER = json.dumps({"model_name": "tiny", "model_version": "1.0", "outputs": [SAME]}).encode()


def predicting(method: str, **facts: Any) -> Twins:
    fields = SEQUENCE if method == "StreamPredictions2" else INPUT
    facts = {"fields": fields, "verb": "POST", "path": "/predictions/tiny", "body": b"7", **facts}
    return Twins(
        service=PREDICTIONS,
        method=method,
        said=lambda messages: b"".join(message.prediction for message in messages),
        told=lambda answer: answer.body,
        **facts,
    )


def managing(method: str, verb: str, path: str, /, **facts: Any) -> Twins:
    return Twins(service=MODELS, method=method, verb=verb, path=path, **facts)


def status_of(answer: Answer) -> object:
    return answer.json["status"]


def inferring(method: str, service: str, **facts: Any) -> Twins:
    def said(messages: Sequence[Any]) -> object:
        answer = messages[0].infer_response if method == "ModelStreamInfer" else messages[0]
        (output,) = answer.outputs
        return (output.name, output.datatype, list(output.shape), list(output.contents.int_contents))

    def told(answer: Answer) -> object:
        (output,) = answer.json["outputs"]
        return (output["name"], output["datatype"], output["shape"], output["data"])

    facts = {"fields": TENSORS, "verb": "POST", "path": "/v2/models/tiny/infer", "body": V2_BODY, **facts}
    return Twins(service=service, method=method, said=said, told=told, **facts)


ANSWERS = [
    Twins(
        service=PREDICTIONS,
        method="Ping",
        verb="GET",
        path="/ping",
        said=lambda messages: messages[0].health,
        told=lambda answer: answer.body.decode().rstrip("\n"),
    ),
    *(predicting(method) for method in ("Predictions", "StreamPredictions", "StreamPredictions2")),
    predicting(
        "Predictions", fields={**INPUT, "model_version": "2.0"}, path="/predictions/tiny/2.0", named="of a version"
    ),
    managing("DescribeModel", "GET", "/models/tiny", fields={"model_name": "tiny"}),
    managing(
        "DescribeModel", "GET", "/models/tiny/all", fields={"model_name": "tiny", "model_version": "all"}, named="all"
    ),
    managing(
        "DescribeModel",
        "GET",
        "/models/tiny/2.0?customized=true",
        fields={"model_name": "tiny", "model_version": "2.0", "customized": True},
        named="customized",
    ),
    managing("ListModels", "GET", "/models"),
    managing(
        "ListModels",
        "GET",
        "/models?limit=10&next_page_token=245",
        fields={"limit": 10, "next_page_token": 245},
        named="page",
    ),
    managing(
        "RegisterModel", "POST", "/models?url=m.mar", fields={"url": "m.mar", "synchronous": True}, told=status_of
    ),
    managing(
        "RegisterModel",
        "POST",
        "/models?url=m.mar&synchronous=false",
        fields={"url": "m.mar"},
        told=status_of,
        named="in the background",
    ),
    managing("ScaleWorker", "PUT", "/models/tiny", fields={"model_name": "tiny"}, told=status_of),
    managing(
        "ScaleWorker",
        "PUT",
        "/models/tiny/2.0?min_worker=2&max_worker=3&synchronous=true",
        fields={
            "model_name": "tiny",
            "model_version": "2.0",
            "min_worker": 2,
            "max_worker": 3,
            "synchronous": True,
        },
        told=status_of,
        named="of a version",
    ),
    managing(
        "SetDefault",
        "PUT",
        "/models/tiny/2.0/set-default",
        fields={"model_name": "tiny", "model_version": "2.0"},
        told=status_of,
    ),
    managing("UnregisterModel", "DELETE", "/models/tiny", fields={"model_name": "tiny"}, told=status_of),
]


def kserve_answers(service: str) -> Iterator[Twins]:
    def asking(method: str, path: str, said: Any, told: Any, /, **facts: Any) -> Twins:
        facts = {"verb": "GET", **facts}
        return Twins(service=service, method=method, path=path, said=said, told=told, **facts)

    is_success = lambda answer: answer.status == 200  # noqa: E731
    yield asking("ServerLive", "/v2/health/live", lambda messages: messages[0].live, is_success)
    yield asking("ServerReady", "/v2/health/ready", lambda messages: messages[0].ready, is_success)
    yield asking(
        "ModelReady",
        "/v2/models/tiny/ready",
        lambda messages: messages[0].ready,
        is_success,
        fields={"name": "tiny"},
    )
    yield asking(
        "ServerMetadata",
        "/v2",
        lambda messages: [messages[0].name, messages[0].version],
        lambda answer: [answer.json["name"], answer.json["version"]],
    )
    yield asking(
        "ModelMetadata",
        "/v2/models/tiny",
        lambda messages: [messages[0].name, list(messages[0].versions), messages[0].platform],
        lambda answer: [answer.json["name"], answer.json["versions"], answer.json["platform"]],
        fields={"name": "tiny"},
    )
    yield inferring("ModelInfer", service)
    yield inferring("ModelStreamInfer", service)
    yield asking(
        "RepositoryIndex",
        "/v2/models",
        lambda messages: sorted({model.name for model in messages[0].models}),
        lambda answer: answer.json["models"],
        fields={"ready": True},
    )
    yield asking(
        "RepositoryModelLoad",
        "/models?url=new.mar&model_name=new&synchronous=true",
        lambda messages: messages[0].isLoaded,
        is_success,
        fields={"repository_name": "new"},
        verb="POST",
    )
    yield asking(
        "RepositoryModelUnload",
        "/models/tiny",
        lambda messages: messages[0].isUnloaded,
        is_success,
        fields={"repository_name": "tiny"},
        verb="DELETE",
    )


ANSWERS += [twins for service in KSERVE for twins in kserve_answers(service)]


# Failures

OF_THE_ENGINE: Sequence[tuple[ServingError, str]] = [
    (errors.NoWorkers("tiny"), "UNAVAILABLE"),
    (errors.QueueFull("tiny", 2), "RESOURCE_EXHAUSTED"),
    (errors.ModelLoading("tiny"), "UNAVAILABLE"),
    (errors.ModelFailed("tiny", "shot"), "UNAVAILABLE"),
    (errors.ShuttingDown(), "UNAVAILABLE"),
    (errors.InvalidInput("It is no tensor."), "INVALID_ARGUMENT"),
    (errors.HandlerError("No such row", 404), "NOT_FOUND"),
    (errors.HandlerError("Slower", 429), "RESOURCE_EXHAUSTED"),
    (errors.HandlerError("Short and stout", 418), "FAILED_PRECONDITION"),
    (errors.HandlerError("x", 599), "INTERNAL"),
    (errors.WorkerDied("It was shot."), "INTERNAL"),
    (errors.DeadlineExceeded(0.5), "DEADLINE_EXCEEDED"),
]


def failures() -> Iterator[Twins]:
    for method in ("Predictions", "StreamPredictions", "StreamPredictions2"):
        fields = SEQUENCE if method == "StreamPredictions2" else INPUT
        unknown = {"code": "NOT_FOUND", "named": "unknown"}
        yield predicting(method, fields={**fields, "model_name": "nope"}, path="/predictions/nope", **unknown)
        version = {**fields, "model_version": "9"}
        yield predicting(method, fields=version, path="/predictions/tiny/9", code="NOT_FOUND", named="unknown version")
        yield predicting(method, error=errors.PredictionFailed("Prediction failed"), code="UNAVAILABLE")
        for error, code in OF_THE_ENGINE:
            yield predicting(method, error=error, code=code, named=str(error)[:20])
    for service in KSERVE:
        nope = {"name": "nope"}
        kserve: dict[str, Any] = {"service": service, "code": "NOT_FOUND", "named": "unknown"}
        yield Twins(method="ModelReady", fields=nope, verb="GET", path="/v2/models/nope/ready", **kserve)
        yield Twins(method="ModelMetadata", fields=nope, verb="GET", path="/v2/models/nope", **kserve)
        yield Twins(
            method="RepositoryModelUnload", fields={"model_name": "nope"}, verb="DELETE", path="/models/nope", **kserve
        )
        for method in ("ModelInfer", "ModelStreamInfer"):
            other = {**TENSORS, "model_name": "nope"}
            yield replace(inferring(method, service, fields=other, path="/v2/models/nope/infer"), **kserve)
            yield inferring(method, service, error=errors.PredictionFailed("Prediction failed"), code="INTERNAL")
            for error, code in OF_THE_ENGINE:
                yield inferring(method, service, error=error, code=code, named=str(error)[:20])
    nope = {"model_name": "nope"}
    yield managing("DescribeModel", "GET", "/models/nope", fields=nope, code="NOT_FOUND", named="unknown")
    yield managing(
        "DescribeModel",
        "GET",
        "/models/tiny?customized=true",
        fields={"model_name": "tiny", "customized": True},
        error=errors.NoWorkers("tiny"),
        code="UNAVAILABLE",
    )
    yield managing("RegisterModel", "POST", "/models", code="INVALID_ARGUMENT", named="nothing")
    yield managing(
        "RegisterModel",
        "POST",
        "/models?url=m.mar&runtime=ruby",
        fields={"url": "m.mar", "runtime": "ruby"},
        code="INVALID_ARGUMENT",
        named="runtime",
    )
    yield managing(
        "ScaleWorker",
        "PUT",
        "/models/tiny?min_worker=2&max_worker=1",
        fields={"model_name": "tiny", "min_worker": 2, "max_worker": 1},
        code="INVALID_ARGUMENT",
        named="bounds",
    )
    yield managing(
        "ScaleWorker",
        "PUT",
        "/models/tiny?synchronous=true",
        fields={"model_name": "tiny", "synchronous": True},
        error=errors.LoadFailed("no such weights"),
        code="INTERNAL",
    )
    yield managing("ScaleWorker", "PUT", "/models/nope", fields=nope, code="NOT_FOUND", named="unknown")
    yield managing(
        "SetDefault",
        "PUT",
        "/models/tiny/9/set-default",
        fields={"model_name": "tiny", "model_version": "9"},
        code="NOT_FOUND",
        named="unknown",
    )
    yield managing("UnregisterModel", "DELETE", "/models/nope", fields=nope, code="NOT_FOUND", named="unknown")


FAILURES = list(failures())
CANNOT_FAIL = {"Ping", "ServerLive", "ServerReady", "ServerMetadata", "ListModels", "RepositoryIndex"}
NO_TWIN_OF_FAILURE = {"RepositoryModelLoad"}  # it takes the name of a model where HTTP takes that of an archive


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(60), serving_grpc() as made:
        yield made


async def messages_of(front: GrpcFront, twins: Twins) -> list[Any]:
    """All that the call is answered with."""
    client = front.management if twins.service == MODELS else front.inference
    request = client.message(twins.service, twins.method, **twins.fields)
    call = client.call(twins.service, twins.method)
    if twins.method in ("StreamPredictions2", "ModelStreamInfer"):
        return [message async for message in call([request])]
    if twins.method == "StreamPredictions":
        return [message async for message in call(request)]
    return [await call(request)]


def answer_for(twins: Twins) -> Callable[[Job], None]:
    """What the engine does with a job of either."""

    def answer(job: Job) -> None:
        if twins.error is not None:
            job.fail(twins.error)
        elif twins.service in KSERVE:
            job.succeed(InferenceResponse(V2_ANSWER))
        elif twins.service == MODELS:
            job.succeed(InferenceResponse(b'{"classes": 10}'))
        else:
            job.succeed(InferenceResponse(job.request.parts[0].data))

    return answer


@pytest.mark.parametrize("twins", [pytest.param(twins, id=twins.id) for twins in ANSWERS])
async def test_answer_is_that_of_the_twin(front: GrpcFront, twins: Twins) -> None:
    front.engine.answer = answer_for(twins)
    said = twins.said(await messages_of(front, twins))
    assert said == twins.told(await front.http.ask(twins.verb, twins.path, data=twins.body))


@pytest.mark.parametrize("twins", [pytest.param(twins, id=twins.id) for twins in FAILURES])
async def test_failure_is_that_of_the_twin(front: GrpcFront, twins: Twins) -> None:
    front.engine.answer = answer_for(twins)
    front.http.manager.failure = twins.error
    code, text = await failure_of(front, twins)
    twin = (await front.http.ask(twins.verb, twins.path, data=twins.body)).json
    assert twin["code"] >= 400
    assert text == (twin["message"] if twins.service in KSERVE else f"{twin['message']}\n{twin['type']}")
    assert code in (twins.code, "told in a message")


async def failure_of(front: GrpcFront, twins: Twins) -> tuple[str, str]:
    """Code and text of the call, or of the last message of a stream that goes on."""
    try:
        last = (await messages_of(front, twins))[-1]
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    if twins.method == "ModelStreamInfer":
        return "told in a message", last.error_message
    info = front.messages.named("google.rpc.ErrorInfo")()
    assert last.status.details[0].Unpack(info)
    (code,) = [code.name for code in grpc.StatusCode if code.value[0] == last.status.code]
    return code, f"{last.status.message}\n{info.reason}"


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.FAILED])
@pytest.mark.parametrize("method", ["Ping", "ServerReady", "ModelReady"])
async def test_models_that_are_not_ready_are_told_as_by_the_twin(
    front: GrpcFront, method: str, state: WorkerState
) -> None:
    front.engine.states[KEY] = state
    for twins in ANSWERS:
        if twins.method == method:
            said = twins.said(await messages_of(front, twins))
            assert said == twins.told(await front.http.ask("GET", twins.path))


def test_no_method_is_left_out(front: GrpcFront) -> None:
    methods = {
        (service, method.name)
        for service in (PREDICTIONS, MODELS, *KSERVE)
        for method in front.messages.pool.FindServiceByName(service).methods
    }
    assert {(twins.service, twins.method) for twins in ANSWERS} == methods
    may_fail = {(service, method) for service, method in methods if method not in CANNOT_FAIL | NO_TWIN_OF_FAILURE}
    assert {(twins.service, twins.method) for twins in FAILURES} == may_fail
