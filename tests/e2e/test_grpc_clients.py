"""gRPC's clients as users have them: stubs that grpcio-tools generates from our protos, in a process of their own, and
a client that has no protos and learns everything from reflection."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool

from tests.e2e.conftest import DATA, ROOT, digit
from tests.e2e.server import PATIENCE, Server
from torchserve_lite.protocols.grpc.messages import load_messages

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT = """
import json, sys
import grpc
from google.protobuf import empty_pb2
import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc
import open_inference_grpc_pb2 as v2, open_inference_grpc_pb2_grpc as v2_grpc

inference, management, image = sys.argv[1:]
image = open(image, "rb").read()
asked = inference_pb2.PredictionsRequest(model_name="mnist", input={"data": image})
in_sequence = inference_pb2.PredictionsRequest(model_name="mnist", input={"data": image}, sequence_id="s")
tensor = v2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
tensor.contents.bytes_contents.append(image)
told = {}
with grpc.insecure_channel(inference) as channel:
    stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
    told["ping"] = json.loads(stub.Ping(empty_pb2.Empty()).health)
    told["one"] = stub.Predictions(asked, timeout=60).prediction.decode()
    told["stream"] = [answer.prediction.decode() for answer in stub.StreamPredictions(asked)]
    answers = stub.StreamPredictions2(iter([in_sequence] * 3))
    told["sequence"] = [answer.prediction.decode() for answer in answers]
    kserve = v2_grpc.GRPCInferenceServiceStub(channel)
    answer = kserve.ModelInfer(v2.ModelInferRequest(model_name="mnist", inputs=[tensor]))
    told["v2"] = list(answer.outputs[0].contents.int64_contents)
    try:
        stub.Predictions(inference_pb2.PredictionsRequest(model_name="nope"))
    except grpc.RpcError as error:
        told["unknown"] = error.code().name
with grpc.insecure_channel(management) as channel:
    stub = management_pb2_grpc.ManagementAPIsServiceStub(channel)
    told["models"] = json.loads(stub.ListModels(management_pb2.ListModelsRequest()).msg)
    described = stub.DescribeModel(management_pb2.DescribeModelRequest(model_name="mnist"))
    told["version"] = json.loads(described.msg)[0]["modelVersion"]
print(json.dumps(told))
"""


def addresses(server: Server) -> tuple[str, ...]:
    lines = [line for line in server.lines if line.startswith("listening: gRPC")]
    return tuple(line.rpartition("://")[2] for role in ("inference", "management") for line in lines if role in line)


async def run(*arguments: object, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), cwd=cwd, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def test_stubs_that_are_generated_from_our_protos_work(mnist: Server, tmp_path: Path) -> None:
    protos = ROOT / "protos"
    files = [file.relative_to(protos) for file in protos.rglob("*.proto") if "torchserve_open" not in file.name]
    output = ("--python_out=.", "--grpc_python_out=.")
    await run("-m", "grpc_tools.protoc", f"--proto_path={protos}", *output, *files, cwd=tmp_path)
    (tmp_path / "client.py").write_text(CLIENT)
    said = await run("client.py", *addresses(mnist), DATA / "digits" / "2.png", cwd=tmp_path)
    assert json.loads(said) == {
        "ping": {"status": "Healthy"},
        "one": "2",
        "stream": ["2"],
        "sequence": ["2", "2", "2"],
        "v2": [2],
        "unknown": "NOT_FOUND",
        "models": {"models": [{"modelName": "mnist", "modelUrl": "mnist.mar"}]},
        "version": "1.0",
    }


class ReflectedClient:
    """Knows the messages of reflection, as grpcurl does, and of everything else what the server tells."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self._known = load_messages()

    async def _reflect(self, **question: str) -> Any:
        package = "grpc.reflection.v1"
        answer = self._known.named(f"{package}.ServerReflectionResponse")
        ask: Any = self.channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo", response_deserializer=answer.FromString
        )
        asked = self._known.named(f"{package}.ServerReflectionRequest")(**question)
        (told,) = [message async for message in ask([asked.SerializeToString()])]
        return told

    async def services(self) -> set[str]:
        return {service.name for service in (await self._reflect(list_services="")).list_services_response.service}

    async def call(self, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """With JSON in and out."""
        found = await self._reflect(file_containing_symbol=service)
        files = DescriptorDatabase()
        for file in found.file_descriptor_response.file_descriptor_proto:
            files.Add(descriptor_pb2.FileDescriptorProto.FromString(file))
        described = DescriptorPool(files).FindServiceByName(service).methods_by_name[method]
        message = json_format.ParseDict(request, message_factory.GetMessageClass(described.input_type)())
        call: Any = self.channel.unary_unary(f"/{service}/{method}")
        answer = await call(message.SerializeToString(), timeout=PATIENCE)
        told = message_factory.GetMessageClass(described.output_type).FromString(answer)
        document: dict[str, Any] = json_format.MessageToDict(told)
        return document


async def test_client_without_protos_calls_by_what_reflection_tells(mnist: Server) -> None:
    image = base64.b64encode(digit(2)).decode()
    inference, management = (ReflectedClient(address) for address in addresses(mnist))
    package = "org.pytorch.serve.grpc"
    assert f"{package}.management.ManagementAPIsService" in await management.services()
    for service in await inference.services():
        if service.endswith(".InferenceAPIsService"):
            answer = await inference.call(service, "Predictions", {"modelName": "mnist", "input": {"data": image}})
            assert base64.b64decode(answer["prediction"]) == b"2"
        if service.endswith(".GRPCInferenceService"):
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytesContents": [image]}}
            answer = await inference.call(service, "ModelInfer", {"modelName": "mnist", "inputs": [tensor]})
            assert answer["outputs"][0]["contents"] == {"int64Contents": ["2"]}
    service = f"{package}.management.ManagementAPIsService"
    described = await management.call(service, "DescribeModel", {"modelName": "mnist"})
    assert json.loads(described["msg"])[0]["modelName"] == "mnist"
    await asyncio.gather(inference.channel.close(), management.channel.close())
