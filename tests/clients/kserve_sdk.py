"""KServe's SDK over REST (V1, V2) and gRPC. Run by the interpreter that has it, with URL and gRPC address of a server,
a V1 request and a V2 request as files."""

import asyncio
import json
import pathlib
import sys

URL, GRPC, V1_FILE, V2_FILE = sys.argv[1:]
sys.argv[1:] = []  # which the import would read

import numpy as np  # noqa: E402
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import RequestedOutput  # noqa: E402
from outcomes import Outcomes  # noqa: E402
from tensors import BINARY, NOT_FINITE, NUMBERS, TEXTS  # noqa: E402

V1 = json.loads(pathlib.Path(V1_FILE).read_text())
V2 = json.loads(pathlib.Path(V2_FILE).read_text())["inputs"][0]


def request(name, array, datatype, *, binary, outputs=None, shape=None, model="echo", request_id=None):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    if shape:
        tensor._shape = shape  # the SDK would refuse it
    return InferRequest(model, [tensor], request_id=request_id, request_outputs=outputs)


def nought(**more):
    return InferRequest("mnist", [InferInput("input-0", V2["shape"], "FP32", np.ravel(V2["data"]).tolist())], **more)


def answer(response):
    output = response.outputs[0]
    return {
        "id": response.id,
        "model": response.model_name,
        "output": [output.name, output.datatype, list(output.shape)],
        "data": output.as_numpy(),
    }


def data(response):
    return response.outputs[0].as_numpy()


async def v1(outcomes):
    client = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    await outcomes.wait("v1 live", client.is_server_live(URL))
    await outcomes.wait("v1 model ready", client.is_model_ready(URL, "mnist"))
    await outcomes.wait("v1 unknown model ready", client.is_model_ready(URL, "other"))
    await outcomes.wait("v1 predict", client.infer(URL, V1, model_name="mnist"))
    await outcomes.wait("v1 predict two", client.infer(URL, {"instances": V1["instances"] * 2}, model_name="mnist"))
    await outcomes.wait("v1 explain", client.explain(URL, "mnist", V1), lambda got: len(got["explanations"][0][0]))
    await outcomes.wait("v1 no list", client.infer(URL, {"instances": 7}, model_name="mnist"))
    await outcomes.wait("v1 unknown model", client.infer(URL, V1, model_name="other"))
    await outcomes.wait("v1 handler fails", client.infer(URL, {"instances": [{"data": "x"}]}, model_name="failing"))
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "test", "ce-type": "request"}
    headers = {}
    await outcomes.wait("v1 event", client.infer(URL, V1, model_name="mnist", headers=event, response_headers=headers))
    outcomes.all["v1 event headers"] = {"value": {name: headers[name] for name in headers if name.startswith("ce-")}}
    await client.close()


async def v2(outcomes):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    def infer(sent):
        return client.infer(URL, sent, model_name=sent.model_name)

    await outcomes.wait("v2 live", client.is_server_live(URL))
    await outcomes.wait("v2 ready", client.is_server_ready(URL))
    await outcomes.wait("v2 model ready", client.is_model_ready(URL, "mnist"))
    await outcomes.wait("v2 unknown model ready", client.is_model_ready(URL, "other"))
    await outcomes.wait("v2 mnist", infer(nought(request_id="42")), answer)
    for datatype, array in NUMBERS.items():
        await outcomes.wait(f"v2 binary {datatype}", infer(request("x", array, datatype, binary=True)), data)
        if datatype != "FP16":  # which the SDK does not send as JSON
            await outcomes.wait(f"v2 json {datatype}", infer(request("x", array, datatype, binary=False)), data)
    for form, outputs in (
        ("binary", [RequestedOutput("predict", {"binary_data": True})]),
        ("json", [RequestedOutput("predict", {"binary_data": False})]),
    ):
        sent = request("x", NUMBERS["FP16"], "FP16", binary=True, outputs=outputs, request_id="7")
        await outcomes.wait(f"v2 asked for {form}", infer(sent), answer)
    await outcomes.wait("v2 texts", infer(request("x", TEXTS, "BYTES", binary=True)), data)
    outputs = [RequestedOutput("predict", {"binary_data": True})]
    sent = request("x", NOT_FINITE, "FP32", binary=True, outputs=outputs)
    await outcomes.wait("v2 not finite", infer(sent), data)
    sent = request("x", NUMBERS["FP32"], "FP32", binary=True, shape=[3])
    await outcomes.wait("v2 wrong shape", infer(sent))
    sent = nought(request_outputs=[RequestedOutput("other")])
    await outcomes.wait("v2 unknown output", infer(sent))
    unknown = InferRequest("other", [InferInput("x", [1], "INT8", [1])])
    await outcomes.wait("v2 unknown model", infer(unknown))
    sent = InferRequest("echo", [InferInput("x", [1], "COMPLEX", [1])])
    await outcomes.wait("v2 unknown datatype", infer(sent))
    sent = InferRequest("failing", [InferInput("x", [1], "INT8", [1])])
    await outcomes.wait("v2 handler fails", infer(sent))
    many = [
        InferRequest("echo", [InferInput("x", [2], "INT32", [number, -number])], request_id=str(number))
        for number in range(16)
    ]
    answers = asyncio.gather(*(infer(one) for one in many))
    await outcomes.wait("v2 many", answers, lambda got: [[one.id, data(one).tolist()] for one in got])
    await client.close()


async def grpc(outcomes):
    client = InferenceGRPCClient(GRPC, retries=0)
    await outcomes.wait("grpc live", client.is_server_live())
    await outcomes.wait("grpc ready", client.is_server_ready())
    await outcomes.wait("grpc model ready", client.is_model_ready("mnist"))
    await outcomes.wait("grpc unknown model ready", client.is_model_ready("other"))
    await outcomes.wait("grpc mnist", client.infer(nought(request_id="42")), answer)
    for datatype, array in NUMBERS.items():
        await outcomes.wait(f"grpc raw {datatype}", client.infer(request("x", array, datatype, binary=True)), data)
        if datatype != "FP16":
            sent = request("x", array, datatype, binary=False)
            await outcomes.wait(f"grpc typed {datatype}", client.infer(sent), data)
    await outcomes.wait("grpc texts", client.infer(request("x", TEXTS, "BYTES", binary=True)), data)
    sent = InferRequest("echo", [InferInput("x", [1], "BYTES", list(BINARY))])
    await outcomes.wait("grpc binary bytes", client.infer(sent), lambda got: list(data(got)))
    await outcomes.wait("grpc not finite", client.infer(request("x", NOT_FINITE, "FP32", binary=False)), data)
    sent = request("x", NUMBERS["FP32"], "FP32", binary=True, shape=[3])
    await outcomes.wait("grpc wrong shape", client.infer(sent))
    unknown = InferRequest("other", [InferInput("x", [1], "INT8", [1])])
    await outcomes.wait("grpc unknown model", client.infer(unknown))
    sent = InferRequest("failing", [InferInput("x", [1], "INT8", [1])])
    await outcomes.wait("grpc handler fails", client.infer(sent))
    await client.close()


async def main():
    outcomes = Outcomes()
    await v1(outcomes)
    await v2(outcomes)
    await grpc(outcomes)
    outcomes.show()


asyncio.run(main())
