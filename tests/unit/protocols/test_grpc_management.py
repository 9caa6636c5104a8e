"""TorchServe's management service over gRPC: each method beside its HTTP twin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from torchserve_lite import errors
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.management.access import Access

from .grpc_front import GrpcFront, serving_grpc


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(60), serving_grpc() as made:
        yield made


@pytest.mark.parametrize(
    ("method", "facts", "verb", "path"),
    [
        pytest.param("DescribeModel", {"model_name": "tiny"}, "GET", "/models/tiny", id="describe"),
        pytest.param(
            "DescribeModel", {"model_name": "tiny", "model_version": "all"}, "GET", "/models/tiny/all", id="all"
        ),
        pytest.param(
            "DescribeModel",
            {"model_name": "tiny", "model_version": "2.0", "customized": True},
            "GET",
            "/models/tiny/2.0?customized=true",
            id="customized",
        ),
        pytest.param("ListModels", {}, "GET", "/models", id="list"),
        pytest.param(
            "ListModels",
            {"limit": 10, "next_page_token": 245},
            "GET",
            "/models?limit=10&next_page_token=245",
            id="page",
        ),
    ],
)
async def test_question_has_the_json_of_http(
    front: GrpcFront, method: str, facts: dict[str, Any], verb: str, path: str
) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(b'{"classes": 10}'))
    assert await front.manage(method, **facts) == (await front.http.ask(verb, path)).body.decode()


@pytest.mark.parametrize(
    ("method", "facts", "verb", "path"),
    [
        pytest.param(
            "RegisterModel", {"url": "m.mar", "synchronous": True}, "POST", "/models?url=m.mar", id="register"
        ),
        pytest.param(
            "RegisterModel", {"url": "m.mar"}, "POST", "/models?url=m.mar&synchronous=false", id="in the background"
        ),
        pytest.param("ScaleWorker", {"model_name": "tiny"}, "PUT", "/models/tiny", id="scale"),
        pytest.param(
            "ScaleWorker",
            {"model_name": "tiny", "model_version": "2.0", "min_worker": 2, "max_worker": 3, "synchronous": True},
            "PUT",
            "/models/tiny/2.0?min_worker=2&max_worker=3&synchronous=true",
            id="scale a version",
        ),
        pytest.param(
            "SetDefault",
            {"model_name": "tiny", "model_version": "2.0"},
            "PUT",
            "/models/tiny/2.0/set-default",
            id="default",
        ),
        pytest.param("UnregisterModel", {"model_name": "tiny"}, "DELETE", "/models/tiny", id="unregister"),
    ],
)
async def test_change_is_told_in_the_words_of_http(
    front: GrpcFront, method: str, facts: dict[str, Any], verb: str, path: str
) -> None:
    assert await front.manage(method, **facts) == (await front.http.ask(verb, path)).json["status"]


@pytest.mark.parametrize(
    ("method", "facts", "verb", "path", "code"),
    [
        pytest.param(
            "DescribeModel", {"model_name": "nope"}, "GET", "/models/nope", "NOT_FOUND", id="describe unknown"
        ),
        pytest.param(
            "DescribeModel",
            {"model_name": "tiny", "customized": True},
            "GET",
            "/models/tiny?customized=true",
            "UNAVAILABLE",
            id="nobody to ask",
        ),
        pytest.param("RegisterModel", {}, "POST", "/models", "INVALID_ARGUMENT", id="register nothing"),
        pytest.param(
            "RegisterModel",
            {"url": "m.mar", "runtime": "ruby"},
            "POST",
            "/models?url=m.mar&runtime=ruby",
            "INVALID_ARGUMENT",
            id="runtime",
        ),
        pytest.param(
            "ScaleWorker",
            {"model_name": "tiny", "min_worker": 2, "max_worker": 1},
            "PUT",
            "/models/tiny?min_worker=2&max_worker=1",
            "INVALID_ARGUMENT",
            id="bounds",
        ),
        pytest.param(
            "ScaleWorker",
            {"model_name": "tiny", "synchronous": True},
            "PUT",
            "/models/tiny?synchronous=true",
            "INTERNAL",
            id="workers fail",
        ),
        pytest.param(
            "SetDefault",
            {"model_name": "tiny", "model_version": "9"},
            "PUT",
            "/models/tiny/9/set-default",
            "NOT_FOUND",
            id="default unknown",
        ),
        pytest.param(
            "UnregisterModel", {"model_name": "nope"}, "DELETE", "/models/nope", "NOT_FOUND", id="unregister unknown"
        ),
    ],
)
async def test_failure_is_the_same_as_over_http(
    front: GrpcFront, method: str, facts: dict[str, Any], verb: str, path: str, code: str
) -> None:
    front.engine.refusal = errors.NoWorkers("tiny")
    front.http.manager.failure = errors.LoadFailed("no such weights")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.manage(method, **facts)
    twin = (await front.http.ask(verb, path)).json
    assert (failed.value.code().name, failed.value.details()) == (code, f"{twin['message']}\n{twin['type']}")


@pytest.mark.parametrize("method", ["DescribeModel", "ScaleWorker", "SetDefault", "UnregisterModel"])
async def test_model_has_to_be_named(front: GrpcFront, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.manage(method)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "model_name" in (failed.value.details() or "")


async def test_registration_says_what_the_message_says_and_nothing_of_what_is_0_or_less(front: GrpcFront) -> None:
    facts = {"initial_workers": 2, "max_batch_delay": 50, "response_timeout": 9, "model_name": "m", "handler": "h"}
    await front.manage("RegisterModel", url="m.mar", batch_size=-1, startup_timeout=0, **facts)
    (options,) = front.http.manager.registered
    assert (options.url, options.name, options.handler, options.min_workers) == ("m.mar", "m", "h", 2)
    assert (options.batch_delay, options.response_timeout) == (0.05, 9.0)
    assert (options.batch_size, options.startup_timeout) == (None, None)


async def test_workers_that_are_not_said_are_one(front: GrpcFront) -> None:
    await front.manage("ScaleWorker", model_name="tiny")
    assert front.http.manager.scaled == [("tiny", None, 1, 1)]


@pytest.mark.parametrize("workers", [-1, 100_000])
async def test_number_of_workers_that_cannot_be_is_refused_by_name(front: GrpcFront, workers: int) -> None:
    """TorchServe kills all workers for -1."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await front.manage("ScaleWorker", model_name="tiny", min_worker=workers)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"min_worker={workers}" in (failed.value.details() or "")
    assert front.http.manager.scaled == []


@pytest.mark.parametrize("method", ["RegisterModel", "UnregisterModel"])
async def test_registering_and_removing_is_denied_when_it_is_switched_off(tmp_path: Path, method: str) -> None:
    access = Access(AccessConfig(tokens=False, model_api=False), tmp_path / "keys")
    async with serving_grpc(access=access) as front:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await front.manage(method)
        assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert json.loads(await front.manage("DescribeModel", model_name="tiny"))[0]["modelName"] == "tiny"


async def test_default_is_the_one_that_is_asked_then(front: GrpcFront) -> None:
    await front.manage("SetDefault", model_name="tiny", model_version="2.0")
    await front.infer("Predictions", model_name="tiny", input={"data": b"7"})
    assert front.engine.jobs[0].key == ModelKey("tiny", "2.0")
