"""KServe's gRPC tensors: to the body that the worker understands and back, and what cannot be sent on."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest, InvalidAnswer
from torchserve_lite.protocols.grpc.messages import load_messages
from torchserve_lite.protocols.grpc.oip_codec import fill_response, parts_of
from torchserve_lite.protocols.tensors import TENSORS

PROTOS = Path(__file__).parents[3] / "protos"
MESSAGES = load_messages()
Request = MESSAGES.named("inference.ModelInferRequest")
Response = MESSAGES.named("inference.ModelInferResponse")


def whole(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def floating(bits: Literal[16, 32, 64]) -> st.SearchStrategy[float]:
    return st.floats(width=bits)


ELEMENTS = st.binary(max_size=6)
TYPES: dict[str, tuple[str, str, st.SearchStrategy[Any]]] = {
    "BOOL": ("bool_contents", "?", st.booleans()),
    **{f"UINT{bits}": ("uint_contents", code, whole(bits, signed=False)) for bits, code in ((8, "B"), (16, "H"))},
    **{f"INT{bits}": ("int_contents", code, whole(bits, signed=True)) for bits, code in ((8, "b"), (16, "h"))},
    "UINT32": ("uint_contents", "I", whole(32, signed=False)),
    "UINT64": ("uint64_contents", "Q", whole(64, signed=False)),
    "INT32": ("int_contents", "i", whole(32, signed=True)),
    "INT64": ("int64_contents", "q", whole(64, signed=True)),
    "FP16": ("", "e", floating(16)),
    "FP32": ("fp32_contents", "f", floating(32)),
    "FP64": ("fp64_contents", "d", floating(64)),
    "BYTES": ("bytes_contents", "", ELEMENTS),
}
TYPED = [name for name, (field, _, _) in TYPES.items() if field]


def packed(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{TYPES[datatype][1]}", *values)


def request_of(datatype: str, shape: list[int], values: list[Any] | bytes, *more: Any) -> Any:
    """``values``: bytes are sent raw."""
    tensor: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": shape}
    if isinstance(values, bytes):
        return Request(inputs=[tensor], raw_input_contents=[values])
    return Request(inputs=[{**tensor, "contents": {TYPES[datatype][0]: values}}])


def sent(request: Any) -> tuple[dict[str, Any], bytes]:
    """What goes to the worker: the JSON, and what stands behind it."""
    body, tensors = parts_of(request)
    assert (body.name, tensors.name) == ("body", "tensors")
    return json.loads(bytes(body.data)), bytes(tensors.data)


def echoed(request: Any) -> InferenceResponse:
    """What a model answers that gives back its inputs."""
    document, tensors = sent(request)
    head = json.dumps({"model_name": "m", "outputs": document["inputs"]}).encode()
    return InferenceResponse(head + tensors, headers=((TENSORS, str(len(head))),))


def json_answer(document: Any) -> InferenceResponse:
    return InferenceResponse(json.dumps(document).encode())


@st.composite
def tensors(draw: st.DrawFn, datatypes: list[str]) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape)
    return datatype, shape, draw(st.lists(TYPES[datatype][2], min_size=count, max_size=count))


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(tensors(TYPED))
def test_typed_tensor_comes_back_as_it_went(tensor: tuple[str, list[int], list[Any]]) -> None:
    request = request_of(*tensor)
    response = fill_response(Response(), echoed(request), raw=False)
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", *tensor[:2])
    assert output.contents.SerializeToString() == request.inputs[0].contents.SerializeToString()
    assert not response.raw_output_contents


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(tensors(list(TYPES)))
def test_raw_tensor_comes_back_as_it_went(tensor: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, values = tensor
    request = request_of(datatype, shape, packed(datatype, values))
    response = fill_response(Response(), echoed(request), raw=True)
    assert list(response.raw_output_contents) == list(request.raw_input_contents)
    assert not response.outputs[0].HasField("contents")


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.binary(max_size=60), st.sampled_from([*TYPES, "BF16"]), st.lists(st.integers(-2, 9), max_size=3))
def test_raw_bytes_go_to_the_worker_as_they_are(raw: bytes, datatype: str, shape: list[int]) -> None:
    document, tensors = sent(request_of(datatype, shape, raw))
    assert tensors == raw
    assert document["inputs"][0] == {
        "name": "x",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(raw)},
    }


def test_json_is_what_a_rest_client_sends() -> None:
    request = request_of("FP32", [2, 1], [0.5, 1.0])
    request.model_name, request.id = "m", "42"
    request.parameters["k"].int64_param = 1
    request.parameters["p"].double_param = 0.5
    request.parameters["n"].uint64_param = 2**63
    request.inputs[0].parameters["flag"].bool_param = True
    request.outputs.add(name="y").parameters["form"].string_param = "short"
    document, tensors = sent(request)
    assert document == {
        "id": "42",
        "parameters": {"k": 1, "p": 0.5, "n": 2**63, "binary_data_output": True},
        "inputs": [
            {"name": "x", "shape": [2, 1], "datatype": "FP32", "parameters": {"flag": True, "binary_data_size": 8}}
        ],
        "outputs": [{"name": "y", "parameters": {"form": "short", "binary_data": True}}],
    }
    assert tensors == struct.pack("<2f", 0.5, 1.0)


def test_tensors_follow_one_another_in_their_order() -> None:
    request = request_of("INT8", [1], b"\x05")
    request.inputs.add(name="y", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(b"\1\0\0\0z")
    document, tensors = sent(request)
    assert [one["parameters"] for one in document["inputs"]] == [{"binary_data_size": 1}, {"binary_data_size": 5}]
    assert tensors == b"\x05\1\0\0\0z"


def twice_given() -> Any:
    request = request_of("INT8", [1], [5])
    request.raw_input_contents.append(b"\x05")
    return request


def too_many_entries() -> Any:
    request = request_of("INT8", [1], b"\x05")
    request.raw_input_contents.append(b"\x05")
    return request


def too_few_entries() -> Any:
    request = request_of("INT8", [1], b"\x05")
    request.inputs.insert(0, request.inputs[0])
    request.inputs[0].name = "first"
    return request


def wrong_field() -> Any:
    request = request_of("INT64", [1], [5])
    request.inputs[0].datatype = "INT32"
    return request


def shared_memory() -> Any:
    request = request_of("INT8", [1], [5])
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return request


def parameter_without_value() -> Any:
    request = request_of("INT8", [1], [5])
    request.inputs[0].parameters["k"].SetInParent()
    return request


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(lambda: request_of("UINT8", [2], [5, 256]), "256 at position 1 .* not UINT8", id="too large"),
        pytest.param(lambda: request_of("INT16", [1], [-32769]), "-32769 at position 0 .* not INT16", id="too small"),
        pytest.param(
            lambda: Request(inputs=[{"name": "x", "datatype": "COMPLEX"}]),
            "unknown datatype 'COMPLEX'",
            id="unknown datatype",
        ),
        pytest.param(lambda: Request(inputs=[{"name": "x"}]), "unknown datatype ''", id="no datatype"),
        pytest.param(
            lambda: Request(inputs=[{"name": "x", "datatype": "BF16"}]), "raw_input_contents", id="typed BF16"
        ),
        pytest.param(twice_given, "one or the other", id="raw and typed"),
        pytest.param(too_many_entries, "2 entries for 1 inputs", id="too many raw entries"),
        pytest.param(too_few_entries, "1 for 2 inputs", id="too few raw entries"),
        pytest.param(wrong_field, "belong into int_contents", id="the field of another datatype"),
        pytest.param(shared_memory, "shared memory", id="shared memory"),
        pytest.param(parameter_without_value, '"k" without a value', id="empty parameter"),
    ],
)
def test_tensor_that_cannot_be_sent_on_is_named(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem) as refused:
        parts_of(make())
    assert 'ensor "x"' in str(refused.value)


def test_answer_says_what_the_models_says() -> None:
    answer = {
        "model_name": "m",
        "model_version": "1.0",
        "id": "42",
        "parameters": {"seconds": 0.5, "cached": True, "k": 3, "by": "us", "list": [1]},
        "outputs": [{"name": "predict", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, None]]}],
    }
    response = fill_response(Response(), json_answer(answer), raw=False)
    assert (response.model_name, response.model_version, response.id) == ("m", "1.0", "42")
    assert {key: getattr(one, one.WhichOneof("parameter_choice")) for key, one in response.parameters.items()} == {
        "seconds": 0.5,
        "cached": True,
        "k": 3,
        "by": "us",
        "list": "[1]",
    }
    number, not_a_number = response.outputs[0].contents.fp32_contents
    assert number == 0.5
    assert math.isnan(not_a_number)


def test_one_output_of_half_precision_makes_all_raw() -> None:
    outputs = [
        {"name": "a", "datatype": "FP16", "shape": [1], "data": [1.0]},
        {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["é", {"k": 1}]},
    ]
    response = fill_response(Response(), json_answer({"outputs": outputs}), raw=False)
    assert list(response.raw_output_contents) == [b"\0\x3c", b"\2\0\0\0\xc3\xa9\x08\0\0\0" + b'{"k": 1}']


def test_text_that_utf8_cannot_say_costs_nobody_the_answer() -> None:
    answer = b'{"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": ["a\\ud800"]}]}'
    assert list(fill_response(Response(), InferenceResponse(answer), raw=True).raw_output_contents) == [b"\2\0\0\0a?"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"7", id="a number"),
        pytest.param(b"seven", id="text"),
        pytest.param(b"{}", id="no outputs"),
        pytest.param(b'{"outputs": [{"name": "y"}]}', id="no tensor"),
        pytest.param(b'{"outputs": [{"name": "y", "datatype": "X", "shape": [1], "data": [1]}]}', id="datatype"),
        pytest.param(b'{"outputs": [{"name": "y", "datatype": "INT8", "shape": [2], "data": [1]}]}', id="shape"),
        pytest.param(b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": ["a"]}]}', id="values"),
        pytest.param(b'{"outputs": [{"name": "y", "datatype": "INT8", "shape": [1], "data": [1e99]}]}', id="range"),
        pytest.param(
            b'{"outputs": [{"name": "y", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}]}',
            id="bytes that are not there",
        ),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_answer_that_is_not_of_tensors_is_an_error(answer: bytes, raw: bool) -> None:
    with pytest.raises(InvalidAnswer):
        fill_response(Response(), InferenceResponse(answer), raw=raw)


def test_both_protos_differ_in_their_package_only() -> None:
    ours, torchserves = [
        (PROTOS / name).read_text().partition("\npackage ")[2]
        for name in ("open_inference_grpc.proto", "torchserve_open_inference.proto")
    ]
    assert ours.partition(";")[2] == torchserves.partition(";")[2]
