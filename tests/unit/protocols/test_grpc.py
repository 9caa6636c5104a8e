"""TorchServe's inference service over gRPC, on real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse, Part

from .grpc_front import INFERENCE, GrpcFront, serving_grpc

SERVICE = f"{INFERENCE}.InferenceAPIsService"


@pytest.fixture
async def front() -> AsyncIterator[GrpcFront]:
    async with serving_grpc() as made:
        yield made


def echo(job: Job) -> None:
    job.succeed(InferenceResponse(b"answer to " + bytes(job.request.parts[0].data)))


async def test_prediction_is_answered_with_the_body_of_the_handler(front: GrpcFront) -> None:
    front.engine.answer = echo
    answer = await front.infer("Predictions", model_name="tiny", input={"data": b"7"})
    assert answer.prediction == b"answer to 7"
    (job,) = front.engine.jobs
    assert (job.request.version, job.request.parts, job.request.headers) == (None, (Part("data", b"7"),), ())
