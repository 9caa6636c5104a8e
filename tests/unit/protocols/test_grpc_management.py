"""TorchServe's management service over gRPC: what it asks for in words of its own (the rest: test_grpc_twins.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.models import ModelKey
from torchserve_lite.management.access import Access

from .grpc_front import GrpcFront, serving_grpc


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with asyncio.timeout(60), serving_grpc() as made:
        yield made


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
