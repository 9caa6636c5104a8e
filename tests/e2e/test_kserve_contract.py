"""Requests of KServe's protocols that cannot be answered. Over REST: the status, a reason in ``error``, and the content
type that KServe's SDK insists on. Over gRPC: the code and the reason. Then the next request is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.e2e.server import Server, grpc_address, running, write_model
from torchserve_lite.protocols.grpc.messages import load_messages

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECHO = """
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

class Echo(BaseHandler):
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        self.context = context
        if self._is_explain():
            return self.explain_handle(data, data)
        return [self.answer(row["data"] if isinstance(row, dict) else row) for row in data]

    def answer(self, value):
        if value in (["raise"], b"raise"):
            raise ValueError("the handler's own")
        if value == ["choose"]:
            raise PredictionException("not today", 418)
        return value
"""
TENSOR = {"name": "x", "shape": [1], "datatype": "INT8", "data": [7]}
SIZE = "Inference-Header-Content-Length"
PREDICT, INFER = "/v1/models/echo:predict", "/v2/models/echo/infer"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder, store = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("store")
    write_model(store, "echo", ECHO)
    write_model(store, "idle", ECHO)
    settings = {"load_models": "all", "default_workers_per_model": "1", "max_request_size": "100000"}
    async with running(folder, store, settings) as made:
        assert (await made.put("/models/idle?min_worker=0&synchronous=true"))[0] == 200
        yield made


def v1(*instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def v2(*tensors: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": tensors, **more}).encode()


def inline(datatype: str, data: Any, shape: Any = None) -> bytes:
    return v2({"name": "x", "shape": [1] if shape is None else shape, "datatype": datatype, "data": data})


def in_bytes(datatype: str, shape: Any, size: Any, raw: bytes, *, announced: str = "") -> tuple[bytes, dict[str, str]]:
    head = v2({"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}})
    return head + raw, {SIZE: announced or str(len(head))}


def binary(name: str, told: str, datatype: str, shape: Any, size: Any, raw: bytes, announced: str = "") -> Any:
    body, headers = in_bytes(datatype, shape, size, raw, announced=announced)
    return pytest.param(INFER, body, headers, 400, told, id=f"binary, {name}")


def bad(name: str, path: str, body: bytes, status: int, told: str, **headers: str) -> Any:
    return pytest.param(path, body, headers, status, told, id=name)


REFUSED = [
    # errors of V1 and V2 (1.4)
    bad("v1, no JSON", PREDICT, b"instances", 400, "not valid JSON"),
    bad("v1, no list", PREDICT, b'{"instances": {}}', 400, 'Expected "instances" to be a list'),
    bad("v1, no instances", PREDICT, b"{}", 400, 'no "instances"'),
    bad("v1, NaN", PREDICT, b'{"instances": [NaN]}', 400, "NaN is not a JSON value"),
    bad("v1, no worker", "/v1/models/idle:predict", v1(1), 503, "no worker"),
    bad("v2, no worker", "/v2/models/idle/infer", v2(TENSOR), 503, "no worker"),
    bad("v1, wrong method", "/v1/models/echo", v1(1), 405, "method"),
    bad("v1, unknown model", "/v1/models/other:predict", v1(1), 404, "Model not found: other"),
    bad("v1, no explain", "/v1/models/echo:explain", v1(1), 501, "cannot explain"),
    bad("v1, exception", PREDICT, v1(["raise"]), 500, "Prediction failed"),
    bad("v1, status of the handler", PREDICT, v1(["choose"]), 418, "not today"),
    bad("v1, unknown verb", "/v1/models/echo:train", v1(1), 404, "not found"),
    bad("v1, unknown path", "/v1/other", v1(1), 404, "not found"),
    bad("v1, too large", PREDICT, v1("x" * 100_000), 413, "max_request_size"),
    bad("v2, no JSON", INFER, b"inputs", 400, "not valid JSON"),
    bad("v2, no inputs", INFER, b"{}", 400, 'no "inputs"'),
    bad("v2, unknown model", "/v2/models/other/infer", v2(TENSOR), 404, "Model not found: other"),
    bad("v2, unknown version", "/v2/models/echo/versions/2.0/infer", v2(TENSOR), 404, "2.0"),
    bad("v2, no explain", "/v2/models/echo/explain", v2(TENSOR), 501, "cannot explain"),
    bad("v2, unknown path", "/v2/models/echo/other", v2(TENSOR), 404, "not found"),
    bad("v2, wrong method", "/v2/models/echo/ready", v2(TENSOR), 405, "method"),
    bad("v2, too large", INFER, v2(TENSOR, id="x" * 100_000), 413, "max_request_size"),
    bad("v2, unknown output", INFER, v2(TENSOR, outputs=[{"name": "y"}]), 400, 'asks for "y"'),
    # datatypes (2.4)
    bad("text for numbers", INFER, inline("INT8", ["7"]), 400, "is not INT8"),
    bad("fraction for whole numbers", INFER, inline("INT64", [0.5]), 400, "is not INT64"),
    bad("number for text", INFER, inline("BYTES", [7]), 400, "BYTES needs strings"),
    bad("number for a boolean", INFER, inline("BOOL", [2]), 400, "is not BOOL"),
    bad("too large", INFER, inline("UINT8", [256]), 400, "is not UINT8"),
    bad("below 0", INFER, inline("UINT64", [-1]), 400, "is not UINT64"),
    bad("too large for half precision", INFER, inline("FP16", [1e6]), 400, "is not FP16"),
    bad("beyond all numbers", INFER, inline("FP64", [7]).replace(b"[7]", b"[1e999]"), 400, "is not FP64"),
    bad("NaN", INFER, inline("FP32", [7]).replace(b"[7]", b"[NaN]"), 400, "NaN is not a JSON value"),
    bad("null", INFER, inline("FP32", [None]), 400, "is not FP32"),
    bad("unknown datatype", INFER, inline("FP8", [7]), 400, "unknown datatype 'FP8'"),
    bad("fewer values than the shape has", INFER, inline("INT8", [7], [2]), 400, "for 2 values"),
    bad("lists of several lengths", INFER, inline("INT8", [[1], [1, 2]], [3]), 400, "ragged"),
    # tensors as bytes (2.5)
    binary("no number of bytes", SIZE, "INT8", [1], 1, b"7", announced="x"),
    binary("negative number of bytes", SIZE, "INT8", [1], 1, b"7", announced="-1"),
    binary("JSON longer than the body", SIZE, "INT8", [1], 1, b"7", announced="9999"),
    binary("JSON cut short", "not valid JSON", "INT8", [1], 1, b"7", announced="20"),
    binary("size is text", "must be a number of bytes", "INT8", [1], "1", b"7"),
    binary("size below 0", "must be a number of bytes", "INT8", [1], -1, b"7"),
    binary("size beyond the body", "only 1 bytes left", "INT8", [2], 2, b"7"),
    binary("size is not the shape's", "takes 8 bytes, but it has 4", "FP32", [2], 4, b"1234"),
    binary("bytes behind the last", "follow the last", "INT8", [1], 1, b"78"),
    binary("lying length of an element", "by its length", "BYTES", [1], 5, b"\2\0\0\0a"),
    binary("fewer elements than the shape has", "there are 1", "BYTES", [2], 8, b"\4\0\0\0abcd"),
    bad("neither data nor size", INFER, v2({"name": "x", "shape": [1], "datatype": "INT8"}), 400, 'no "data"'),
    bad("size without the header", INFER, in_bytes("INT8", [1], 1, b"")[0], 400, f"{SIZE}, which it needs"),
    bad("shared memory", INFER, v2({**TENSOR, "parameters": {"shared_memory_region": "r"}}), 400, "shared memory"),
    bad("no signature for a body without JSON", INFER, b"7", 400, "tensorSignature", **{SIZE: "0"}),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "told"), REFUSED)
async def test_request_that_cannot_be_answered_is_told_why(
    server: Server, path: str, body: bytes, headers: Mapping[str, str], status: int, told: str
) -> None:
    async with server.client.post(server.url + path, data=body, headers=headers) as answer:
        found = json.loads(await answer.read())
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert told in found["error"]
    assert (found["code"], found["message"]) == (status, found["error"])
    assert (await server.post(INFER, v2(TENSOR)))[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "data"),
    [
        pytest.param(INFER, v2(TENSOR, more=1, model_name="x"), [7], id="unknown keys"),
        pytest.param(INFER, inline("INT64", [2**63 - 1]), [2**63 - 1], id="whole numbers beyond 2^53"),
        pytest.param(INFER, inline("UINT64", [2**64 - 1]), [2**64 - 1], id="the largest"),
        pytest.param(INFER, inline("INT8", [[1], [2]], [2, 1]), [1, 2], id="nested by shape"),
        pytest.param(INFER, inline("INT8", [1, 2], [2, 1]), [1, 2], id="flat"),
        pytest.param(INFER, inline("int8", [1], [1]), [1], id="datatype in small letters"),
        pytest.param(INFER, inline("BF16", [0.5]), [0.5], id="half precision in JSON"),
        pytest.param(INFER, inline("BYTES", "text", 1), ["text"], id="a bare text and a bare shape"),
        pytest.param(INFER, inline("BYTES", ["a", "b"], [-1]), ["a", "b"], id="as many as there are"),
        pytest.param("/v2/models/echo/versions/1.0/infer", v2(TENSOR), [7], id="a version in the path"),
        pytest.param("/v2/models/echo/infer/", v2(TENSOR), [7], id="a slash at the end"),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_request_is_answered_whatever_its_content_type_says(
    server: Server, path: str, body: bytes, data: list[Any], content_type: str
) -> None:
    status, answer = await server.post(path, body, **{"Content-Type": content_type})
    assert (status, answer["outputs"][0]["data"]) == (200, data)  # type: ignore[index]


async def test_colon_before_the_verb_may_be_escaped(server: Server) -> None:
    assert await server.post("/v1/models/echo%3Apredict", v1(7)) == (200, {"predictions": [7]})


SERVICE = "inference.GRPCInferenceService"


def typed(datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "contents": contents}


def over_grpc(name: str, code: str, told: str, *inputs: Any, model: str = "echo", **more: Any) -> Any:
    fields = {"model_name": model, "inputs": inputs or [typed("INT8", [1], int_contents=[7])], **more}
    return pytest.param(fields, code, told, id=name)


BARE = {"name": "x", "datatype": "INT8", "shape": [1]}


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        # raw contents (3.2)
        over_grpc("fewer raw than inputs", "INVALID_ARGUMENT", "1 for 2", BARE, BARE, raw_input_contents=[b"7"]),
        over_grpc("more raw than inputs", "INVALID_ARGUMENT", "2 entries for 1", BARE, raw_input_contents=[b"7"] * 2),
        over_grpc("raw and typed", "INVALID_ARGUMENT", "one or the other", raw_input_contents=[b"7"]),
        over_grpc("raw of another size", "INVALID_ARGUMENT", "takes 1 bytes", BARE, raw_input_contents=[b"78"]),
        over_grpc("half precision in a field", "INVALID_ARGUMENT", "raw", typed("FP16", [1], fp32_contents=[1])),
        over_grpc("another datatype's field", "INVALID_ARGUMENT", "int_cont", typed("INT8", [1], int64_contents=[7])),
        over_grpc("fewer values than the shape", "INVALID_ARGUMENT", "2 bytes", typed("INT8", [2], int_contents=[7])),
        over_grpc("unknown output", "INVALID_ARGUMENT", 'asks for "y"', outputs=[{"name": "y"}]),
        # codes (3.3)
        over_grpc("no inputs", "INVALID_ARGUMENT", "inputs", raw_input_contents=[], inputs=[]),
        over_grpc("unknown datatype", "INVALID_ARGUMENT", "FP8", typed("FP8", [1], fp32_contents=[1])),
        over_grpc("unknown model", "NOT_FOUND", "Model not found: other", model="other"),
        over_grpc("unknown version", "NOT_FOUND", "9", model_version="9"),
        over_grpc("no worker", "UNAVAILABLE", "no worker", model="idle"),
        over_grpc("exception", "INTERNAL", "failed", typed("BYTES", [], bytes_contents=[b"raise"])),
        over_grpc("too large", "RESOURCE_EXHAUSTED", "", typed("BYTES", [1], bytes_contents=[b"x" * 200_000])),
    ],
)
async def test_call_that_cannot_be_answered_is_told_why(
    server: Server, fields: dict[str, Any], code: str, told: str
) -> None:
    messages = load_messages()

    async def infer(**request: Any) -> Any:
        async with grpc.aio.insecure_channel(grpc_address(server)) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages.named("inference.ModelInferResponse").FromString,
            )
            return await call(messages.named("inference.ModelInferRequest")(**request), timeout=30)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await infer(**fields)
    assert failure.value.code().name == code, failure.value.details()
    assert told in (failure.value.details() or "")
    good = await infer(model_name="echo", inputs=[typed("INT8", [1], int_contents=[7])])
    assert list(good.outputs[0].contents.int64_contents) == [7]
