"""KServe's gRPC protocol with the MNIST archive: Triton's own client, which sends and reads raw tensors only, and the
requests of TorchServe's gRPC sample, whose tensors are typed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import digit, request_file
from tests.e2e.server import PATIENCE, Server, grpc_address, running
from torchserve_lite.protocols.grpc.messages import load_messages

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def triton(mnist: Server) -> AsyncIterator[InferenceServerClient]:
    async with InferenceServerClient(grpc_address(mnist)) as client:
        yield client


def tensor_of(name: str, array: np.ndarray, datatype: str) -> InferInput:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def nought() -> InferInput:
    (tensor,) = request_file("mnist_v2_tensor.json")["inputs"]
    return tensor_of("input-0", np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"]), "FP32")


async def ask(server: Server, package: str, body: dict[str, Any]) -> Any:
    """ModelInfer with a request as JSON has it."""
    messages = load_messages()
    request = messages.named(f"{package}.ModelInferRequest")(**body)
    answer = messages.named(f"{package}.ModelInferResponse")
    async with grpc.aio.insecure_channel(grpc_address(server)) as channel:
        path = f"/{package}.GRPCInferenceService/ModelInfer"
        call: Any = channel.unary_unary(path, response_deserializer=answer.FromString)
        return await call(request.SerializeToString(), timeout=PATIENCE)


async def test_tritons_client_finds_server_and_model(triton: InferenceServerClient) -> None:
    assert await triton.is_server_live()
    assert await triton.is_server_ready()
    assert await triton.is_model_ready("mnist", "1.0")
    assert (await triton.get_server_metadata()).name == "torchserve-lite"
    assert list((await triton.get_model_metadata("mnist")).versions) == ["1.0"]


async def test_tritons_client_gets_the_digit_of_a_tensor(triton: InferenceServerClient) -> None:
    result = await triton.infer("mnist", [nought()], request_id="42", outputs=[InferRequestedOutput("predict")])
    assert result.as_numpy("predict").tolist() == [0]
    assert result.get_response().id == "42"


async def test_tritons_client_gets_the_digit_of_a_picture(triton: InferenceServerClient) -> None:
    result = await triton.infer("mnist", [tensor_of("image", np.array([digit(2)], dtype=np.object_), "BYTES")])
    assert result.as_numpy("predict").tolist() == [2]


async def test_tritons_client_is_told_which_output_there_is_not(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match='asks for "other"') as refused:
        await triton.infer("mnist", [nought()], outputs=[InferRequestedOutput("other")])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_tritons_client_streams(triton: InferenceServerClient) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"model_name": "mnist" if number != 1 else "other", "inputs": [nought()], "request_id": str(number)}

    answers = [answer async for answer in triton.stream_infer(requests())]
    assert [error is None for _, error in answers] == [True, False, True]
    assert [result.get_response().id for result, error in answers if error is None] == ["0", "2"]


@pytest.mark.parametrize("package", ["inference", "org.pytorch.serve.grpc.openinference"])
async def test_requests_of_torchserves_sample_are_answered(mnist: Server, package: str) -> None:
    tensor = await ask(mnist, package, request_file("mnist_v2_tensor_grpc.json"))
    assert (tensor.model_name, tensor.model_version, tensor.outputs[0].datatype) == ("mnist", "1.0", "INT64")
    assert list(tensor.outputs[0].contents.int64_contents) == [0]
    picture = request_file("mnist_v2_bytes_grpc.json")
    contents = picture["inputs"][0]["contents"]
    contents["bytes_contents"] = [base64.b64decode(text) for text in contents["bytes_contents"]]
    picture = await ask(mnist, package, picture)
    assert len(picture.outputs[0].contents.int64_contents) == 1


async def test_tritons_client_loads_and_unloads(mnist_store: Path, tmp_path: Path) -> None:
    settings = {"load_models": "", "enable_model_api": "true"}
    async with (
        running(tmp_path, mnist_store, settings) as server,
        InferenceServerClient(grpc_address(server)) as triton,
    ):
        states = []
        for change in (triton.load_model, triton.unload_model, triton.load_model):
            await change("mnist")
            index = await triton.get_model_repository_index()
            states += [(model.name, model.version, model.state) for model in index.models]
        assert states == [
            ("mnist", "1.0", "READY"),
            ("mnist", "", "UNAVAILABLE"),
            ("mnist", "1.0", "READY"),
        ]
        assert (await triton.infer("mnist", [nought()])).as_numpy("predict").tolist() == [0]
        with pytest.raises(InferenceServerException, match="Model not found: other"):
            await triton.load_model("other")
