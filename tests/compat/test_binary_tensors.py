"""V2 tensors as bytes behind the JSON: what the handler gets of them, what is refused, and answers in bytes."""

from __future__ import annotations

import contextlib
import json
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestHeaders, RequestProcessor
from ts.torch_handler.request_envelope.binary_tensors import HEADER
from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope
from ts.utils.util import PredictionException

SIGNATURE = SimpleNamespace(
    inputs=[SimpleNamespace(name="image", datatype="UINT8", shape=(-1, 2))],
    outputs=[SimpleNamespace(name=name, datatype="FP32", shape=(1,)) for name in ("boxes", "labels")],
)


def context(**headers: str) -> Context:
    made = Context("m", ".", {}, 1, None, "0.12.0")
    made.request_ids = {0: "id-0"}
    made.request_processor = [RequestProcessor(RequestHeaders(headers))]
    return made


def body(document: dict[str, Any], tensors: bytes = b"") -> dict[str, Any]:
    return {"body": json.dumps(document).encode(), "tensors": bytearray(tensors)}


def binary(datatype: str, shape: Any, size: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}, **more}


def rows_of(row: dict[str, Any], signature: Any = None) -> list[Any]:
    envelope = KServev2Envelope(lambda data, context: data)
    envelope.signature = signature
    return envelope.unpack(row, context(), 0)


def answer(
    results: list[Any], parameters: dict[str, Any] | None = None, *, inputs: list[Any] | None = None, **more: Any
) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """JSON, bytes behind it, and headers of an answer; it is in bytes unless ``parameters`` say otherwise."""
    envelope = KServev2Envelope(lambda data, context: data)
    envelope.signature = more.pop("signature", None)
    asked = {"binary_data_output": True} if parameters is None else parameters
    tensors = inputs or [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]
    serving = context()
    envelope.unpack(body({"inputs": tensors, "parameters": asked, **more}), serving, 0)
    packed = envelope.pack(results, serving, 0)
    headers = serving.get_response_headers(0)
    if isinstance(packed, dict):
        return packed, b"", headers
    size = int(headers[HEADER])
    return json.loads(packed[:size]), packed[size:], headers


@pytest.mark.parametrize(
    ("datatype", "raw", "data"),
    [
        ("BOOL", b"\1\0", [True, False]),
        ("UINT8", b"\xff\0", [255, 0]),
        ("UINT16", struct.pack("<2H", 65535, 1), [65535, 1]),
        ("UINT32", struct.pack("<2I", 2**32 - 1, 1), [2**32 - 1, 1]),
        ("UINT64", struct.pack("<2Q", 2**64 - 1, 1), [2**64 - 1, 1]),
        ("INT8", b"\xff\1", [-1, 1]),
        ("INT16", struct.pack("<2h", -32768, 1), [-32768, 1]),
        ("INT32", struct.pack("<2i", -(2**31), 1), [-(2**31), 1]),
        ("INT64", struct.pack("<2q", -(2**63), 1), [-(2**63), 1]),
        ("FP16", struct.pack("<2e", 65504, 0.5), [65504.0, 0.5]),
        ("BF16", b"\x80\x3f\0\xc0", [1.0, -2.0]),
        ("FP32", struct.pack("<2f", 1.5, float("inf")), [1.5, float("inf")]),
        ("FP64", struct.pack("<2d", 0.1, -1e300), [0.1, -1e300]),
    ],
)
def test_numbers_are_what_they_would_be_as_json(datatype: str, raw: bytes, data: list[Any]) -> None:
    [row] = rows_of(body({"inputs": [binary(datatype, [2, 1], len(raw))]}, raw))
    assert row == {"name": "x", "datatype": datatype, "shape": [2, 1], "data": [[data[0]], [data[1]]]}
    assert [type(value) for [value] in row["data"]] == [type(value) for value in data]


def test_nan_arrives_in_bytes() -> None:
    [row] = rows_of(body({"inputs": [binary("FP32", [1], 4)]}, struct.pack("<f", float("nan"))))
    assert str(row["data"]) == "[nan]"


@pytest.mark.parametrize("shape", [[2], [-1], [1, 2], -1])
def test_elements_of_bytes_are_bytes(shape: Any) -> None:
    raw = b"\2\0\0\0\xff\0\1\0\0\0a"
    rows = rows_of(body({"inputs": [binary("BYTES", shape, len(raw))]}, raw))
    assert [(row["data"], row["shape"]) for row in rows] == [(b"\xff\0", [1]), (b"a", [1])]


def test_inputs_take_their_bytes_in_order_and_may_be_mixed_with_json() -> None:
    document = {
        "inputs": [
            {**binary("INT8", [1], 1), "name": "a", "parameters": {"binary_data_size": 1, "unit": "m"}},
            {"name": "b", "datatype": "INT8", "shape": [1], "data": [5]},
            {**binary("INT8", [2], 2), "name": "c"},
        ]
    }
    rows = rows_of(body(document, b"\1\2\3"))
    assert [row["data"] for row in rows] == [[1], [5], [2, 3]]
    assert rows[0]["parameters"] == {"unit": "m"}
    assert "parameters" not in rows[2]


@pytest.mark.parametrize(
    ("inputs", "tensors", "problem"),
    [
        pytest.param([binary("INT8", [1], "1")], b"1", "must be a number of bytes, not '1'", id="size is text"),
        pytest.param([binary("INT8", [1], True)], b"1", "must be a number of bytes", id="size is a boolean"),
        pytest.param([binary("INT8", [1], 1.0)], b"1", "must be a number of bytes", id="size is a fraction"),
        pytest.param([binary("INT8", [1], None)], b"1", "must be a number of bytes", id="size is null"),
        pytest.param([binary("INT8", [1], -1)], b"1", "must be a number of bytes", id="size below 0"),
        pytest.param([binary("INT8", [2], 2)], b"1", "only 1 bytes left", id="size beyond the end"),
        pytest.param([binary("INT8", [2], 10**30)], b"1", "only 1 bytes left", id="size beyond all"),
        pytest.param([binary("INT8", [2], 1)], b"1", "takes 2 bytes, but it has 1", id="size below the shape's"),
        pytest.param([binary("FP32", [1], 8)], b"12345678", "takes 4 bytes", id="size above the shape's"),
        pytest.param([binary("FP32", [-1], 6)], b"123456", "whole values of 4 bytes", id="half a value"),
        pytest.param([binary("FP32", [0, -1], 0)], b"", "leaves its -1 open", id="-1 beside 0"),
        pytest.param([binary("INT8", [1], 1)], b"12", "1 bytes follow the last", id="bytes behind the last"),
        pytest.param([binary("BOOL", [2], 2)], b"\1\2", "byte 2 at position 1 is no BOOL", id="neither true nor false"),
        pytest.param([binary("BYTES", [1], 4)], b"\xff\xff\xff\xff", "ends at byte 4294967299", id="lying length"),
        pytest.param([binary("BYTES", [1], 7)], b"\1\0\0\0a\0\0", "2 bytes follow", id="bytes behind an element"),
        pytest.param([binary("BYTES", [2], 8)], b"\4\0\0\0abcd", "there are 1", id="fewer elements"),
        pytest.param([binary("BYTES", [2], 4)], b"\0\0\0\0", "4 bytes of length", id="no room for elements"),
        pytest.param([binary("BYTES", [2, -1], 4)], b"\0\0\0\0", "4 bytes of length", id="elements of unknown number"),
        pytest.param([binary("BYTES", [-1], 2)], b"\0\0", "ends at byte 4", id="cut in a length"),
        pytest.param([binary("BYTES", [0], 0)], b"", "is empty", id="no elements"),
        pytest.param([binary("INT8", [1], 1, data=[1])], b"1", "send one of them", id="data as well"),
        pytest.param([binary("COMPLEX", [1], 1)], b"1", "unknown datatype 'COMPLEX'", id="unknown datatype"),
        pytest.param(
            [{"name": "x", "datatype": "INT8", "shape": [1], "parameters": []}], b"", '"parameters" that is', id="list"
        ),
        pytest.param(
            [{"name": "x", "datatype": "INT8", "shape": [1], "parameters": {"shared_memory_region": "r"}}],
            b"",
            "lies in shared memory",
            id="shared memory",
        ),
    ],
)
def test_binary_tensor_that_is_wrong_is_a_400_that_names_it(inputs: list[Any], tensors: bytes, problem: str) -> None:
    with pytest.raises(PredictionException) as raised:
        rows_of(body({"inputs": inputs}, tensors))
    assert raised.value.error_code == 400
    assert problem in raised.value.message
    assert "ensor" in raised.value.message


def test_binary_tensor_without_the_header_is_a_400_that_asks_for_it() -> None:
    with pytest.raises(PredictionException, match=HEADER):
        rows_of({"body": json.dumps({"inputs": [binary("INT8", [1], 1)]}).encode()})


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.binary(max_size=60),
    st.sampled_from(["BOOL", "INT8", "UINT16", "FP16", "BF16", "FP64", "BYTES"]),
    st.lists(st.integers(-2, 9), max_size=3),
)
def test_any_bytes_are_read_or_refused(raw: bytes, datatype: str, shape: list[int]) -> None:
    with contextlib.suppress(PredictionException):
        rows_of(body({"inputs": [binary(datatype, shape, len(raw))]}, raw))


# ---- a body without JSON


def test_body_without_json_is_the_signatures_only_input() -> None:
    envelope = KServev2Envelope(lambda data, context: data)
    envelope.signature = SIGNATURE
    serving = context()
    [row] = envelope.unpack({"body": b"", "tensors": b"\1\2\3\4"}, serving, 0)
    assert (row["name"], row["shape"], row["data"]) == ("image", [2, 2], [[1, 2], [3, 4]])
    assert isinstance(envelope.pack([{"boxes": 1.0, "labels": 2}], serving, 0), bytes)


def test_body_without_json_is_one_element_of_bytes() -> None:
    text = SimpleNamespace(inputs=[SimpleNamespace(name="t", datatype="BYTES", shape=(1,))], outputs=[])
    [row] = rows_of({"body": b"", "tensors": b"\xffabc"}, text)
    assert row["data"] == b"\xffabc"


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(None, id="no signature"),
        pytest.param(SimpleNamespace(inputs=SIGNATURE.inputs * 2, outputs=[]), id="two inputs"),
        pytest.param(
            SimpleNamespace(inputs=[SimpleNamespace(name="a", datatype="INT8", shape=(-1, -1))], outputs=[]),
            id="two sizes that vary",
        ),
    ],
)
def test_body_without_json_is_refused_where_its_shape_is_unknown(signature: Any) -> None:
    with pytest.raises(PredictionException, match="tensorSignature"):
        rows_of({"body": b"", "tensors": b"\1\2"}, signature)


# ---- answers


@pytest.mark.parametrize(
    ("result", "datatype", "shape", "raw"),
    [
        pytest.param(7, "INT64", [1], struct.pack("<q", 7), id="int"),
        pytest.param([[1.0, float("nan")]], "FP64", [1, 2], struct.pack("<2d", 1, float("nan")), id="nan"),
        pytest.param(True, "BOOL", [1], b"\1", id="bool"),
        pytest.param(np.float16(0.5), "FP16", [1], struct.pack("<e", 0.5), id="fp16"),
        pytest.param(torch.tensor([1.5], dtype=torch.float16), "FP16", [1], struct.pack("<e", 1.5), id="torch fp16"),
        pytest.param(torch.tensor([1.0, -2.0], dtype=torch.bfloat16), "BF16", [2], b"\x80\x3f\0\xc0", id="bf16"),
        pytest.param(np.array([1, 2], dtype=">i4"), "INT32", [2], struct.pack("<2i", 1, 2), id="big endian"),
        pytest.param(np.asfortranarray([[1, 2], [3, 4]], dtype="u1"), "UINT8", [2, 2], b"\1\2\3\4", id="by columns"),
        pytest.param("é", "BYTES", [1], b"\2\0\0\0\xc3\xa9", id="text"),
        pytest.param(b"\xff\0", "BYTES", [1], b"\2\0\0\0\xff\0", id="bytes"),
        pytest.param([b"a\0", "b"], "BYTES", [2], b"\2\0\0\0a\0\1\0\0\0b", id="bytes and text"),
        pytest.param({"k": float("nan")}, "BYTES", [1], b'\x0b\0\0\0{"k": null}', id="object"),
        pytest.param([], "FP64", [0], b"", id="empty"),
    ],
)
def test_result_goes_out_as_bytes(result: Any, datatype: str, shape: list[int], raw: bytes) -> None:
    document, tensors, headers = answer([result])
    expected = {"name": "predict", "datatype": datatype, "shape": shape}
    assert document["outputs"] == [{**expected, "parameters": {"binary_data_size": len(raw)}}]
    assert tensors == raw
    assert headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("parameters", "of_the_output", "is_binary"),
    [
        ({}, {}, False),
        ({"binary_data_output": False}, {}, False),
        ({"binary_data_output": True}, {}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({"binary_data_output": False}, {"binary_data": True}, True),
        ({}, {"binary_data": True}, True),
    ],
)
def test_answer_is_in_the_form_that_is_asked_for(
    parameters: dict[str, Any], of_the_output: dict[str, Any], is_binary: bool
) -> None:
    document, tensors, headers = answer([7], parameters, outputs=[{"name": "predict", "parameters": of_the_output}])
    assert ("data" in document["outputs"][0], len(tensors), HEADER in headers) == (
        (False, 8, True) if is_binary else (True, 0, False)
    )


def test_outputs_in_both_forms_have_their_bytes_in_the_order_asked_for() -> None:
    inputs = [{"name": name, "shape": [1], "datatype": "INT8", "data": [1]} for name in "abc"]
    outputs = [{"name": "c"}, {"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}]
    document, tensors, _ = answer([True, 2.5, False], inputs=inputs, outputs=outputs)
    assert [(one["name"], one.get("data")) for one in document["outputs"]] == [("c", None), ("b", [2.5]), ("a", None)]
    assert tensors == b"\0\1"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"parameters": {"binary_data_output": 1}}, id="for all"),
        pytest.param({"outputs": [{"name": "predict", "parameters": {"binary_data": "yes"}}]}, id="for one"),
    ],
)
def test_form_of_the_answer_that_is_no_boolean_is_a_400(document: dict[str, Any]) -> None:
    inputs = [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]
    with pytest.raises(PredictionException, match="must be true or false"):
        rows_of(body({"inputs": inputs, **document}))


def test_handler_does_not_see_how_the_answer_is_sent() -> None:
    envelope = KServev2Envelope(lambda data, context: data)
    serving = context()
    inputs = [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]
    envelope.unpack(body({"inputs": inputs, "parameters": {"binary_data_output": True, "k": 1}}), serving, 0)
    envelope.before_call(serving)
    assert vars(serving)["input_parameters"] == {"k": 1}


def test_answer_that_has_begun_ends_in_json() -> None:
    """Its headers have gone out."""
    envelope = KServev2Envelope(lambda data, context: data)
    serving = context()
    inputs = [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]
    envelope.unpack(body({"inputs": inputs, "parameters": {"binary_data_output": True}}), serving, 0)
    envelope.answer_begun = True
    assert envelope.pack([7], serving, 0)["outputs"][0]["data"] == [7]


# ---- names by the signature


def test_outputs_of_a_result_by_names_are_those_of_the_signature() -> None:
    document, tensors, _ = answer([{"labels": [1, 2], "boxes": [[0.5], [1.5]]}], {}, signature=SIGNATURE)
    assert [(one["name"], one["shape"], one["data"]) for one in document["outputs"]] == [
        ("boxes", [2, 1], [0.5, 1.5]),
        ("labels", [2], [1, 2]),
    ]
    assert tensors == b""


def test_result_without_the_names_of_the_signature_is_one_output() -> None:
    document, _, _ = answer([{"labels": 1}], {}, signature=SIGNATURE)
    assert [(one["name"], one["datatype"]) for one in document["outputs"]] == [("predict", "BYTES")]


def test_only_output_has_the_name_of_the_signature() -> None:
    signature = SimpleNamespace(inputs=[], outputs=SIGNATURE.outputs[:1])
    document, _, _ = answer([7], {}, signature=signature, outputs=[{"name": "boxes"}])
    assert [one["name"] for one in document["outputs"]] == ["boxes"]
    with pytest.raises(PredictionException, match='asks for "predict"'):
        answer([7], {}, signature=signature, outputs=[{"name": "predict"}])


def test_cloud_events_data_is_the_request() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    inputs = [{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}]
    [row] = rows_of({"body": json.dumps({**event, "data": {"inputs": inputs}}).encode()})
    assert row["data"] == [1]
