"""What envelopes make of requests, one by one, and of a handler's results."""

from __future__ import annotations

import base64
import datetime
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ts.context import Context, RequestHeaders, RequestProcessor
from ts.torch_handler.request_envelope.base import BaseEnvelope, plain
from ts.torch_handler.request_envelope.body import BodyEnvelope
from ts.torch_handler.request_envelope.json import JSONEnvelope
from ts.torch_handler.request_envelope.kserve import KServeEnvelope
from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope
from ts.utils.util import PredictionException

GUIDE = Path(__file__).parents[1] / "data" / "kserve_requests"
MANIFEST = {"model": {"modelName": "mnist", "modelVersion": "2.0"}}


def serving(*headers: dict[str, str]) -> Context:
    context = Context("registered", ".", MANIFEST, 8, None, "0.12.0")
    context.request_ids = {index: f"id-{index}" for index in range(len(headers))}
    context.request_processor = [RequestProcessor(RequestHeaders(entry)) for entry in headers]
    return context


class Recorder:
    """A handler that keeps what it got, and answers by `answer(row)`, or by `answers` whatever it gets."""

    def __init__(self, answer: Any = lambda row: row, answers: list[Any] | None = None) -> None:
        self.answer = answer
        self.answers = answers
        self.calls: list[list[Any]] = []
        self.ids: list[dict[int, str] | None] = []

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        self.calls.append(data)
        self.ids.append(context.request_ids)
        return self.answers if self.answers is not None else [self.answer(row) for row in data]


def answer(envelope: type[BaseEnvelope], document: Any, handler: Any = None, **headers: str) -> Any:
    """The answer to one request with this body."""
    [made] = envelope(handler or Recorder()).handle([{"body": document}], serving(headers))
    return made


def refusal(envelope: type[BaseEnvelope], body: Any) -> str:
    with pytest.raises(PredictionException) as raised:
        envelope(Recorder()).unpack({"body": body}, serving({}), 0)
    assert raised.value.error_code == 400
    message: str = raised.value.message
    return message


def tensor(data: Any, shape: Any = None, datatype: str | None = "FP32", name: str = "input-0") -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


def rows_of(*tensors: dict[str, Any]) -> list[Any]:
    rows: list[Any] = KServev2Envelope(Recorder()).unpack({"body": {"inputs": list(tensors)}}, serving({}), 0)
    return rows


# ---- V1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"instances": [{"data": "x"}, [1, 2]], "signature_name": "s"}, id="parsed"),
        pytest.param(b'{"instances": [{"data": "x"}, [1, 2]]}', id="bytes"),
        pytest.param(bytearray(b'{"instances": [{"data": "x"}, [1, 2]]}'), id="bytearray"),
        pytest.param('{"instances": [{"data": "x"}, [1, 2]]}', id="text"),
        pytest.param(
            {
                "specversion": "1.0",
                "id": "1",
                "source": "s",
                "type": "t",
                "data": {"instances": [{"data": "x"}, [1, 2]]},
            },
            id="cloud-event-without-time",
        ),
    ],
)
def test_v1_instances_are_the_handlers_rows(body: Any) -> None:
    handler = Recorder(answer=lambda row: 7)
    assert answer(KServeEnvelope, body, handler) == {"predictions": [7, 7]}
    assert handler.calls == [[{"data": "x"}, [1, 2]]]


def test_v1_explanation_has_its_own_key() -> None:
    assert answer(KServeEnvelope, {"instances": [1]}, explain="True") == {"explanations": [1]}
    assert answer(KServeEnvelope, {"instances": [1]}, explain="False") == {"predictions": [1]}


def test_v1_requests_of_a_batch_share_one_call_and_get_their_own_answers() -> None:
    """0.12 read the first request's body only, and failed them all."""
    handler = Recorder(answer=lambda row: row * 10)
    data: list[dict[str, Any]] = [{"body": {"instances": [1, 2]}}, {"data": b'{"instances": [3]}'}]
    context = serving({}, {"explain": "True"})
    assert KServeEnvelope(handler).handle(data, context) == [{"predictions": [10, 20]}, {"explanations": [30]}]
    assert handler.calls == [[1, 2, 3]]
    assert handler.ids == [{0: "id-0", 1: "id-0", 2: "id-1"}]
    assert context.request_ids == {0: "id-0", 1: "id-1"}


def test_v1_status_set_for_a_row_is_that_of_its_request() -> None:
    def handler(data: list[Any], context: Context) -> list[Any]:
        context.set_response_status(202, "later", 2)
        return data

    context = serving({}, {})
    KServeEnvelope(handler).handle([{"body": {"instances": [1, 2]}}, {"body": {"instances": [3]}}], context)
    assert [context.get_response_status(index)[0] for index in (0, 1)] == [200, 202]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"instances": [1,]}', "line 1, column 18 (position 17)", id="syntax"),
        pytest.param(b'{"a":\n tru}', "line 2, column 2", id="syntax-line"),
        pytest.param(b'{"instances": [NaN]}', "NaN is not a JSON value", id="nan-token"),
        pytest.param(b'"\xff"', "is not utf-8", id="no-utf-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep"),
        pytest.param(b'{"instances": [' + b"1" * 5000 + b"]}", "not valid JSON", id="endless-number"),
        pytest.param(b"", "The request has no body", id="empty"),
        pytest.param(b"  \n", "The request has no body", id="blank"),
        pytest.param(b"[1]", "must be a JSON object, not an array", id="array"),
        pytest.param(b'{"instances": [1], "instances": [2]}', 'the key "instances" comes twice', id="key-twice"),
        pytest.param(b'{"instances": [{"a": 1, "b": 2, "a": 3}]}', 'the key "a" comes twice', id="inner-key-twice"),
        pytest.param({"x": 1}, 'has no "instances" (it has "x")', id="no-instances"),
        pytest.param({"instances": "x"}, 'Expected "instances" to be a list, not a string', id="no-list"),
        pytest.param({"instances": []}, '"instances" is empty', id="no-instance"),
        pytest.param({"inputs": [1, 2]}, 'has no "instances" (it has "inputs")', id="inputs-that-are-no-tensors"),
        pytest.param(
            {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 5},
            'The CloudEvent\'s "data" must be a JSON object, not a number',
            id="cloud-event-of-nothing",
        ),
    ],
)
def test_v1_body_that_cannot_be_understood_is_a_400_that_says_why(body: Any, message: str) -> None:
    assert message in refusal(KServeEnvelope, body)


def test_v1_tensors_of_the_guide_are_answered_in_v2_form() -> None:
    """KServe's guide posts its V2 sample to the V1 path."""
    body = json.loads((GUIDE / "mnist_v2_tensor.json").read_text())
    made = answer(KServeEnvelope, body, Recorder(answer=lambda row: 1), explain="False")
    assert made["outputs"] == [{"name": "predict", "shape": [1], "datatype": "INT64", "data": [1]}]
    assert (
        answer(KServeEnvelope, body, Recorder(answer=lambda row: 1), explain="True")["outputs"][0]["name"] == "explain"
    )


def test_v1_body_of_several_tensors_has_a_call_of_its_own() -> None:
    handler = Recorder(answers=[7])
    two = {"inputs": [tensor([1], name="a"), tensor([2], name="b")]}
    [first, second] = KServeEnvelope(handler).handle([{"body": two}, {"body": two}], serving({}, {}))
    assert [len(call) for call in handler.calls] == [2, 2]
    assert (
        first["outputs"] == second["outputs"] == [{"name": "predict", "shape": [1], "datatype": "INT64", "data": [7]}]
    )


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_v1_answer_needs_a_result_for_each_instance(results: list[int]) -> None:
    with pytest.raises(PredictionException, match="number of batch response mismatched"):
        answer(KServeEnvelope, {"instances": [1, 2]}, Recorder(answers=results))


@pytest.mark.parametrize("results", [None, (1,), {"a": 1}])
def test_result_that_is_no_list_is_refused(results: Any) -> None:
    with pytest.raises(PredictionException, match="Invalid model predict output"):
        KServeEnvelope(lambda data, context: results).handle([{"body": {"instances": [1]}}], serving({}))


def test_v1_tensors_in_results_become_lists() -> None:
    handler = Recorder(answers=[torch.tensor([1.5]), np.int64(3)])
    assert answer(KServeEnvelope, {"instances": [1, 2]}, handler) == {"predictions": [[1.5], 3]}


# ---- V2 requests


@pytest.mark.parametrize(
    ("given", "shape", "data"),
    [
        pytest.param(tensor([1, 2.5]), [2], [1, 2.5], id="flat"),
        pytest.param(tensor([1, 2, 3, 4], [2, 2]), [2, 2], [[1, 2], [3, 4]], id="flat-becomes-nested"),
        pytest.param(tensor([[1, 2], [3, 4]], [2, 2]), [2, 2], [[1, 2], [3, 4]], id="nested"),
        pytest.param(tensor([[1, 2], [3, 4]], [4]), [4], [1, 2, 3, 4], id="nested-becomes-flat"),
        pytest.param(tensor([1, 2], 2, "INT64"), [2], [1, 2], id="integer-shape"),
        pytest.param(tensor([1, 2, 3, 4], [-1, 2], "INT64"), [2, 2], [[1, 2], [3, 4]], id="one-open-dimension"),
        pytest.param(tensor(5, [1], "INT64"), [1], [5], id="bare-number"),
        pytest.param(tensor([5], [], "INT64"), [], 5, id="scalar"),
        pytest.param(tensor([], [0], "INT64"), [0], [], id="empty"),
        pytest.param(tensor([], [2, 0], "INT64"), [2, 0], [[], []], id="two-of-nothing"),
        pytest.param(tensor([[], []], [2, 0], "INT64"), [2, 0], [[], []], id="two-of-nothing-sent"),
        pytest.param(tensor([], [0, 2**62], "INT64"), [0, 2**62], [], id="nothing-of-many"),
        pytest.param(tensor([1, 2], [2, 1, 1], "INT64"), [2, 1, 1], [[[1]], [[2]]], id="dimensions-of-one"),
        pytest.param(tensor([2**64 - 1], [1], "UINT64"), [1], [2**64 - 1], id="large-integer"),
        pytest.param(tensor([2**53 + 1, 1.0], [2], "INT64"), [2], [2**53 + 1, 1.0], id="whole-float-beside-integer"),
        pytest.param(tensor([True, False], [2], "BOOL"), [2], [True, False], id="bool"),
        pytest.param(tensor([0, 1], [2], "BOOL"), [2], [0, 1], id="bool-as-number"),
        pytest.param(tensor([1, 2], [2], "fp32"), [2], [1, 2], id="lower-case-datatype"),
        pytest.param(tensor([1.5], [1], "BF16"), [1], [1.5], id="bf16"),
    ],
)
def test_v2_tensor_is_one_row_with_its_values_as_sent(given: dict[str, Any], shape: list[int], data: Any) -> None:
    [row] = rows_of(given)
    assert (row["name"], row["shape"], row["datatype"]) == ("input-0", shape, given["datatype"].upper())
    assert json.dumps(row["data"]) == json.dumps(data)


def test_v2_row_keeps_the_tensors_other_keys() -> None:
    [row] = rows_of({**tensor([1]), "parameters": {"content_type": "base64"}})
    assert row["parameters"] == {"content_type": "base64"}


def test_v2_binary_tensor_is_taken_as_it_is() -> None:
    """NaN has no JSON, but it has bytes."""
    [row] = rows_of(tensor(np.array([1.0, math.nan], dtype="float32"), [1, 2]))
    assert np.isnan(row["data"][0][1])


@pytest.mark.parametrize(
    ("data", "shape", "rows"),
    [
        pytest.param("some text", -1, ["some text"], id="bare-string"),
        pytest.param(["a"], [-1], ["a"], id="open-shape"),
        pytest.param(["a"], [1], ["a"], id="one"),
        pytest.param(["a", "b"], [2], ["a", "b"], id="several"),
        pytest.param([["a"], ["b"]], [2, 1], ["a", "b"], id="nested"),
        pytest.param(["a"], [], ["a"], id="no-dimension"),
        pytest.param([b"\x89PNG"], [1], [b"\x89PNG"], id="binary"),
        pytest.param([bytearray(b"\x89PNG")], [1], [bytearray(b"\x89PNG")], id="binary-bytearray"),
        pytest.param([{"text": "a"}], [1], [{"text": "a"}], id="object"),
    ],
)
def test_v2_bytes_tensor_is_a_row_per_element(data: Any, shape: Any, rows: list[Any]) -> None:
    made = rows_of(tensor(data, shape, "BYTES"))
    assert [row["data"] for row in made] == rows
    assert all(row["shape"] == [1] and row["datatype"] == "BYTES" for row in made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            tensor([1, 2, 3], [2, 2]), 'Tensor "input-0": shape [2, 2] is for 4 values, but "data" has 3', id="count"
        ),
        pytest.param(tensor([1, 2, 3], [-1, 2]), 'Tensor "input-0": shape [-1, 2]', id="open-count"),
        pytest.param(tensor([[1], [2, 3]], [3]), 'Tensor "input-0": "data" is ragged', id="ragged"),
        pytest.param(tensor([[1], 2], [2]), 'Tensor "input-0": "data" is ragged', id="list-beside-number"),
        pytest.param(tensor([1], [1], "FP31"), "Tensor \"input-0\" has the unknown datatype 'FP31'", id="datatype"),
        pytest.param(tensor([1], [1], None), 'Tensor "input-0" has the unknown datatype None', id="no-datatype"),
        pytest.param(tensor(["1"], [1]), "value '1' at position 0 of \"data\" is not FP32", id="text"),
        pytest.param(
            tensor(["x" * 99], [1]), "value 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx at position", id="long-text"
        ),
        pytest.param(tensor([1, None], [2]), 'value None at position 1 of "data" is not FP32', id="null"),
        pytest.param(tensor([1, True], [2]), 'value True at position 1 of "data" is not FP32', id="bool"),
        pytest.param(tensor([0, math.nan], [2]), 'value nan at position 1 of "data" is not FP32', id="nan"),
        pytest.param(tensor([math.inf], [1], "FP64"), 'value inf at position 0 of "data" is not FP64', id="infinity"),
        pytest.param(tensor([1e39], [1]), 'value 1e+39 at position 0 of "data" is not FP32', id="too-large-float"),
        pytest.param(
            tensor([10**400], [1], "FP64"), 'at position 0 of "data" is not FP64', id="too-large-for-any-float"
        ),
        pytest.param(tensor([1, 2.5], [2], "INT64"), 'value 2.5 at position 1 of "data" is not INT64', id="fraction"),
        pytest.param(tensor([300], [1], "UINT8"), 'value 300 at position 0 of "data" is not UINT8', id="too-large"),
        pytest.param(tensor([-1], [1], "UINT8"), 'value -1 at position 0 of "data" is not UINT8', id="negative"),
        pytest.param(tensor([2**63], [1], "INT64"), 'at position 0 of "data" is not INT64', id="64-bits"),
        pytest.param(tensor([2], [1], "BOOL"), 'value 2 at position 0 of "data" is not BOOL', id="no-bool"),
        pytest.param(tensor([1], "1"), 'Tensor "input-0": "shape" must be a list of sizes, not \'1\'', id="shape"),
        pytest.param(tensor([1], [-2]), '"shape" must be a list of sizes, not [-2]', id="negative-shape"),
        pytest.param(tensor([1], [True]), '"shape" must be a list of sizes, not [True]', id="bool-in-shape"),
        pytest.param(tensor([], [-1, 0]), "leaves its -1 open", id="open-size-beside-nothing"),
        pytest.param(tensor([1], [-1, -1]), '"shape" must be a list of sizes', id="two-open-dimensions"),
        pytest.param(tensor([1], [2**63 - 1]), "is for 9223372036854775807 values", id="huge-shape"),
        pytest.param({"name": "x", "shape": [1], "datatype": "FP32"}, 'Tensor "x" has no "data"', id="no-data"),
        pytest.param(
            tensor([], [2000, 0]), "shape [2000, 0] makes 2001 lists of 0 values; send fewer", id="lists-of-nothing"
        ),
        pytest.param(
            tensor([1] * 1000, [1000] + [1] * 9), "makes 9001 lists of 1000 values; send fewer", id="lists-of-one"
        ),
        pytest.param({**tensor([1]), **dict.fromkeys(map(str, range(17)))}, "has 21 keys; put what", id="many-keys"),
        pytest.param(tensor([1], [2**63]), '"shape" has a size above 9223372036854775807', id="size-of-64-bits"),
        pytest.param(tensor([1], [1] * 33), '"shape" has 33 dimensions; at most 32', id="many-dimensions"),
        pytest.param({"shape": [1], "datatype": "FP32", "data": [1]}, 'inputs[0] has no "name"', id="no-name"),
        pytest.param(5, "inputs[0] must be an object with name, shape, datatype and data, not a number", id="number"),
        pytest.param(tensor(["a", "b"], [1], "BYTES"), "is for 1 values", id="bytes-count"),
        pytest.param(tensor([5], [1], "BYTES"), "a number (5) where BYTES needs strings", id="bytes-number"),
        pytest.param(tensor([], [0], "BYTES"), '"data" is empty', id="no-bytes"),
    ],
)
def test_v2_tensor_that_is_wrong_is_a_400_that_names_it(given: Any, message: str) -> None:
    assert message in refusal(KServev2Envelope, {"inputs": [given]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"inputs": ', "line 1, column 12", id="syntax"),
        pytest.param({"instances": [1]}, 'has no "inputs" (it has "instances")', id="v1-body"),
        pytest.param({"inputs": {}}, 'Expected "inputs" to be a list of tensors, not an object', id="no-list"),
        pytest.param({"inputs": []}, '"inputs" is empty', id="no-input"),
        pytest.param(
            {"inputs": [tensor([1]), tensor([2])]}, 'more than one tensor of the name "input-0"', id="name-twice"
        ),
        pytest.param({"inputs": [tensor([1])] * 1001}, "has 1001 tensors; at most 1000", id="many-inputs"),
        pytest.param({"id": 5, "inputs": [tensor([1])]}, '"id" must be a string, not a number', id="id"),
    ],
)
def test_v2_body_that_cannot_be_understood_is_a_400_that_says_why(body: Any, message: str) -> None:
    assert message in refusal(KServev2Envelope, body)


def test_v2_deeply_nested_data_is_refused_and_not_followed() -> None:
    deep: Any = [1.0]
    for _ in range(900):
        deep = [deep]
    assert "ragged" in refusal(KServev2Envelope, {"inputs": [tensor(deep, [1])]})
    assert "BYTES" in refusal(KServev2Envelope, {"inputs": [tensor(deep, [1], "BYTES")]})


# ---- V2 answers


def outputs(result: Any, **headers: str) -> dict[str, Any]:
    made: dict[str, Any]
    [made] = answer(KServev2Envelope, {"inputs": [tensor([1])]}, Recorder(answers=[result]), **headers)["outputs"]
    assert made.pop("name") == ("explain" if headers.get("explain") == "True" else "predict")
    return made


@pytest.mark.parametrize(
    ("result", "datatype", "shape", "data"),
    [
        pytest.param(7, "INT64", [1], [7], id="int"),
        pytest.param(0.5, "FP64", [1], [0.5], id="float"),
        pytest.param(True, "BOOL", [1], [True], id="bool"),
        pytest.param("cat", "BYTES", [1], ["cat"], id="str"),
        pytest.param("a\0", "BYTES", [1], ["a\0"], id="zero-at-the-end"),
        pytest.param([1, 2], "INT64", [2], [1, 2], id="list"),
        pytest.param([[1, 2.5], [3, 4]], "FP64", [2, 2], [1.0, 2.5, 3.0, 4.0], id="nested"),
        pytest.param([True, False], "BOOL", [2], [True, False], id="bools"),
        pytest.param(["a", "b"], "BYTES", [2], ["a", "b"], id="texts"),
        pytest.param(["a", 1], "BYTES", [2], ["a", "1"], id="text-and-number"),
        pytest.param({"cat": 0.5}, "BYTES", [1], [{"cat": 0.5}], id="dict"),
        pytest.param([{"a": 1}, {"b": 2}], "BYTES", [2], [{"a": 1}, {"b": 2}], id="dicts"),
        pytest.param([[1], [2, 3]], "BYTES", [2], [[1], [2, 3]], id="ragged"),
        pytest.param(None, "BYTES", [1], [None], id="none"),
        pytest.param(b"text", "BYTES", [1], ["text"], id="bytes"),
        pytest.param(bytearray(b"\xff\x00"), "BYTES", [1], ["/wA="], id="bytes-that-are-no-text"),
        pytest.param([b"a", b"\xff"], "BYTES", [2], ["a", "/w=="], id="list-of-bytes"),
        pytest.param([], "FP64", [0], [], id="empty"),
        pytest.param(np.array([[1, 2]], dtype="uint8"), "UINT8", [1, 2], [1, 2], id="numpy"),
        pytest.param(np.float32(0.5), "FP32", [1], [0.5], id="numpy-scalar"),
        pytest.param(np.array([0.5], dtype="float16"), "FP32", [1], [0.5], id="half"),
        pytest.param(np.array(["a"]), "BYTES", [1], ["a"], id="numpy-text"),
        pytest.param(np.array(["2026-05-04"], "datetime64[D]"), "BYTES", [1], ["2026-05-04"], id="numpy-date"),
        pytest.param([datetime.date(2026, 5, 4)], "BYTES", [1], ["2026-05-04"], id="date"),
        pytest.param({2, 1}, "BYTES", [1], [[1, 2]], id="set"),
        pytest.param(torch.tensor([[1.5, 2.5]]), "FP32", [1, 2], [1.5, 2.5], id="torch"),
        pytest.param(torch.tensor(3), "INT64", [1], [3], id="torch-scalar"),
        pytest.param(torch.tensor([1.5], dtype=torch.bfloat16), "FP32", [1], [1.5], id="bfloat16"),
        pytest.param(torch.tensor([0.5]).to(torch.float8_e4m3fn), "FP32", [1], [0.5], id="float8"),
        pytest.param(torch.eye(2).to_sparse(), "FP32", [2, 2], [1.0, 0.0, 0.0, 1.0], id="sparse"),
        pytest.param(torch._neg_view(torch.ones(1)), "FP32", [1], [-1.0], id="negating-view"),
        pytest.param(np.array([0.5], np.longdouble), "FP64", [1], [0.5], id="more-than-64-bits"),
        pytest.param(torch.ones(1, requires_grad=True), "FP32", [1], [1.0], id="with-gradient"),
        pytest.param([torch.tensor([1.0]), torch.tensor([2.0])], "FP32", [2, 1], [1.0, 2.0], id="list-of-torch"),
        pytest.param([torch.ones(1), torch.ones(2)], "BYTES", [2], [[1.0], [1.0, 1.0]], id="ragged-torch"),
        pytest.param([1.0, math.nan, -math.inf], "FP64", [3], [1.0, None, None], id="nan"),
        pytest.param({"p": math.nan}, "BYTES", [1], [{"p": None}], id="nan-in-a-dict"),
    ],
)
def test_v2_output_tells_the_results_true_shape(result: Any, datatype: str, shape: list[int], data: list[Any]) -> None:
    made = outputs(result)
    assert made == {"shape": shape, "datatype": datatype, "data": data}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


@pytest.mark.filterwarnings("ignore:.*quantized tensor:UserWarning")
def test_quantized_tensor_in_a_v2_output_is_sent_as_the_numbers_it_stands_for() -> None:
    quantized = torch.quantize_per_tensor(torch.tensor([1.5, -2.0]), 0.5, 0, torch.qint8)
    assert outputs(quantized) == {"shape": [2], "datatype": "FP32", "data": [1.5, -2.0]}


def test_v2_explanation_is_named_so_and_keeps_its_shape() -> None:
    attributions = [[[-0.0] * 28] * 28]
    made = outputs(attributions, explain="True")
    assert (made["shape"], made["datatype"], len(made["data"])) == ([1, 28, 28], "FP64", 784)
    assert str(made["data"][0]) == "-0.0"


def test_v2_answer_has_the_guides_keys_in_the_guides_order() -> None:
    made = answer(KServev2Envelope, {"id": " q ", "inputs": [tensor([1])]}, Recorder(answers=[7]))
    assert list(made) == ["id", "model_name", "model_version", "outputs"]
    assert list(made["outputs"][0]) == ["name", "shape", "datatype", "data"]
    assert (made["id"], made["model_name"], made["model_version"]) == (" q ", "registered", "2.0")


@pytest.mark.parametrize("given", [{}, {"id": None}, {"id": ""}, {"id": "  "}])
def test_v2_answer_has_the_requests_own_id_when_none_is_given(given: dict[str, Any]) -> None:
    assert answer(KServev2Envelope, {**given, "inputs": [tensor([1])]}, Recorder(answers=[7]))["id"] == "id-0"


def test_v2_answer_names_the_registered_model_when_there_is_no_manifest() -> None:
    context = serving({})
    context.manifest = None
    [made] = KServev2Envelope(Recorder(answers=[7])).handle([{"body": {"inputs": [tensor([1])]}}], context)
    assert (made["model_name"], made["model_version"]) == ("registered", "1.0")


def test_v2_result_without_a_datatype_is_refused() -> None:
    with pytest.raises(PredictionException, match="V2 has no complex128"):
        outputs(1j)


def two_inputs(*answers: Any) -> list[tuple[Any, ...]]:
    body = {"inputs": [tensor([1, 2], name="ids"), tensor([1, 1], name="mask")]}
    made = answer(KServev2Envelope, body, Recorder(answers=list(answers)))
    return [(output["name"], output["shape"], output["data"]) for output in made["outputs"]]


def test_v2_two_inputs_give_two_outputs_named_after_them() -> None:
    assert two_inputs(7, 8) == [("ids", [1], [7]), ("mask", [1], [8])]


def test_v2_two_inputs_of_one_model_give_one_output() -> None:
    assert two_inputs([0.5, 0.5]) == [("predict", [2], [0.5, 0.5])]


@pytest.mark.parametrize("answers", [(), (1, 2, 3)])
def test_v2_inputs_with_too_few_or_too_many_results_are_refused(answers: tuple[int, ...]) -> None:
    with pytest.raises(PredictionException, match="number of batch response mismatched"):
        two_inputs(*answers)


def test_v2_results_of_several_bytes_are_stacked_into_one_output() -> None:
    body = {"inputs": [tensor(["a", "b", "c"], [3], "BYTES")]}
    made = answer(KServev2Envelope, body, Recorder(answer=lambda row: [0.25, 0.75]))
    assert made["outputs"] == [{"name": "predict", "shape": [3, 2], "datatype": "FP64", "data": [0.25, 0.75] * 3}]


def test_v2_several_inputs_of_several_bytes_are_stacked_each() -> None:
    body = {"inputs": [tensor(["a", "b"], [2], "BYTES", "x"), tensor(["c"], [1], "BYTES", "y")]}
    made = answer(KServev2Envelope, body, Recorder(answer=lambda row: row["data"].upper()))
    assert [(output["name"], output["data"]) for output in made["outputs"]] == [("x", ["A", "B"]), ("y", ["C"])]


def test_v2_request_of_several_inputs_has_a_call_of_its_own() -> None:
    handler = Recorder(answer=lambda row: row["data"][0])
    one = {"inputs": [tensor([1])]}
    two = {"inputs": [tensor([2], name="a"), tensor([3], name="b")]}
    made = KServev2Envelope(handler).handle([{"body": one}, {"body": two}, {"body": one}], serving({}, {}, {}))
    assert [[row["data"] for row in call] for call in handler.calls] == [[[1], [1]], [[2], [3]]]
    assert handler.ids == [{0: "id-0", 1: "id-2"}, {0: "id-1", 1: "id-1"}]
    assert [[output["data"] for output in entry["outputs"]] for entry in made] == [[[1]], [[2], [3]], [[1]]]


def test_v2_names_and_id_are_on_the_context_while_the_handler_runs() -> None:
    seen = []

    def handler(data: list[Any], context: Any) -> list[int]:
        seen.append((context.input_names, context.input_request_id))
        return [1]

    context = serving({})
    KServev2Envelope(handler).handle([{"body": {"id": "q", "inputs": [tensor([1])]}}], context)
    assert seen == [(["input-0"], "q")]
    assert not hasattr(context, "input_names")


def test_v2_outputs_are_named_and_flattened_as_in_012_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KServev2Envelope, "output_names", "inputs")
    made = answer(KServev2Envelope, {"inputs": [tensor([1])]}, Recorder(answers=[[[1, 2], [3, 4]]]))
    assert made["outputs"] == [{"name": "input-0", "shape": [4], "datatype": "INT64", "data": [1, 2, 3, 4]}]
    assert two_inputs(7) == [("ids", [1], [7])]


@pytest.mark.parametrize("name", ["mnist_v2_bytes", "mnist_v2_tensor", "bert_bytes_v2", "bert_tensor_v2"])
def test_v2_requests_of_the_guide_are_understood(name: str) -> None:
    body = json.loads((GUIDE / f"{name}.json").read_text())
    handler = Recorder(answer=lambda row: 1)
    made = answer(KServev2Envelope, body, handler)
    assert made["id"] == body["id"]
    assert [row["name"] for row in handler.calls[0]] == [entry["name"] for entry in body["inputs"]]


# ---- body, json and what all have in common


def test_body_envelope_hands_over_the_bodies() -> None:
    handler = Recorder(answer=lambda row: [row])
    data: list[dict[str, Any]] = [{"data": 1}, {"body": "x"}, {"data": "", "body": b"y"}]
    assert BodyEnvelope(handler).handle(data, serving({}, {}, {})) == [[1], ["x"], [b"y"]]
    assert handler.calls == [[1, "x", b"y"]]


def test_json_envelope_batches_instances_and_answers_in_compact_text() -> None:
    handler = Recorder(answer=lambda row: row if isinstance(row, int) else 0)
    data: list[dict[str, Any]] = [{"body": {"instances": [1, 2]}}, {"data": b'{"instances": [3]}'}]
    assert JSONEnvelope(handler).handle(data, serving({}, {})) == ['{"predictions": [1, 2]}', '{"predictions": [3]}']
    assert handler.calls == [[1, 2, 3]]


def test_json_envelope_decodes_base64_rows_and_columns() -> None:
    text = base64.b64encode(b"\x89PNG").decode()
    handler = Recorder(answer=lambda row: 0)
    answer(
        JSONEnvelope, {"instances": [{"b64": text}, {"image": {"b64": text[:4] + "\n" + text[4:]}, "k": 1}]}, handler
    )
    assert handler.calls == [[b"\x89PNG", {"image": b"\x89PNG", "k": 1}]]


@pytest.mark.parametrize("value", ["iVBORw0eKGg", 5])
def test_json_envelope_names_the_value_that_is_no_base64(value: Any) -> None:
    message = refusal(JSONEnvelope, {"instances": [1, {"image": {"b64": value}}]})
    assert "instances[1].image: 'b64' is not valid base64" in message


def test_json_envelope_writes_null_for_nan() -> None:
    assert answer(JSONEnvelope, {"instances": [1]}, Recorder(answers=[math.nan])) == '{"predictions": [null]}'


@pytest.mark.parametrize("envelope", [BodyEnvelope, JSONEnvelope, KServeEnvelope, KServev2Envelope])
def test_describe_reaches_the_handler_unwrapped(envelope: type[BaseEnvelope]) -> None:
    """0.12 answered 503 behind all but the body envelope."""
    handler = Recorder(answers=[{"about": "me"}])
    assert envelope(handler).handle([{}], serving({"describe": "True"})) == [{"about": "me"}]
    assert handler.calls == [[{}]]


class Foreign(BaseEnvelope):
    """An envelope as users wrote them for TorchServe, over the whole batch."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        return [row["body"]["x"] for row in data]

    def format_output(self, data: list[Any]) -> list[Any]:
        return [{"y": value} for value in data]


def test_envelope_written_for_torchserve_works_by_request() -> None:
    handler = Recorder(answer=lambda row: row + 1)
    data = [{"body": {"x": 1}}, {"body": {"x": 2}}]
    assert Foreign(handler).handle(data, serving({}, {})) == [{"y": 2}, {"y": 3}]
    assert handler.calls == [[1, 2]]


def test_envelope_restores_the_context_when_the_handler_fails() -> None:
    def handler(data: list[Any], context: Context) -> list[Any]:
        raise ValueError("boo")

    context = serving({})
    with pytest.raises(ValueError, match="boo"):
        KServev2Envelope(handler).handle([{"body": {"inputs": [tensor(["a", "b"], [2], "BYTES")]}}], context)
    assert (context.request_ids, len(context.request_processor or ())) == ({0: "id-0"}, 1)
    assert not hasattr(context, "input_names")


def test_body_may_be_the_only_part_whatever_its_name() -> None:
    [made] = KServeEnvelope(Recorder()).handle([{"file": b'{"instances": [1]}'}], serving({}))
    assert made == {"predictions": [1]}


def test_plain_value_has_nothing_that_json_lacks() -> None:
    value = {"a": (1, math.inf), "b": torch.tensor([math.nan]), "c": np.float32(2), "d": b"x", 3: [True, None]}
    assert plain(value) == {"a": [1, None], "b": [None], "c": 2.0, "d": "x", 3: [True, None]}


def test_plain_refuses_what_it_cannot_carry() -> None:
    with pytest.raises(TypeError, match=r"Unsupported model output data type.*complex"):
        plain({"a": 1j})


INT64 = {"shape": [1], "datatype": "INT64", "data": [1]}
TWO = {"inputs": [{**INT64, "name": name} for name in ("x", "y")]}
ONE = {"inputs": [{**INT64, "name": "x"}]}


@pytest.mark.parametrize(
    ("body", "outputs", "given"),
    [
        pytest.param(TWO, [{"name": "y"}], ["y"], id="one of two"),
        pytest.param(TWO, [{"name": "y"}, {"name": "x"}], ["y", "x"], id="in the order asked for"),
        pytest.param(TWO, [], ["x", "y"], id="an empty list is all"),
        pytest.param(TWO, None, ["x", "y"], id="null is all"),
        pytest.param(ONE, [{"name": "predict", "parameters": {"binary_data": False}}], ["predict"], id="one output"),
        pytest.param(ONE, [{"name": "predict", "parameters": None}], ["predict"], id="parameters that are null"),
    ],
)
@pytest.mark.parametrize("envelope", [KServev2Envelope, KServeEnvelope])
def test_v2_outputs_are_those_asked_for(
    envelope: type[BaseEnvelope], body: dict[str, Any], outputs: Any, given: list[str]
) -> None:
    """They were ignored: a client that asked for one got them all."""
    made = answer(envelope, {**body, "outputs": outputs}, Recorder(answer=lambda row: 1))
    assert [output["name"] for output in made["outputs"]] == given


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"outputs": [{"name": "nope"}]}, '"nope", which there is not; this request can have "predict", "x", "y"'),
        ({"outputs": [{"name": "x"}, {"name": "a"}, {"name": "b"}]}, 'asks for "a", "b",'),
        ({"outputs": [{"name": "x"}, {"name": "x"}]}, "more than once"),
        ({"outputs": ["x"]}, 'a list of objects with a "name"'),
        ({"outputs": [{"name": 1}]}, 'a list of objects with a "name"'),
        ({"outputs": {"name": "x"}}, 'a list of objects with a "name"'),
        ({"outputs": "x"}, 'a list of objects with a "name"'),
        ({"outputs": [{"name": "x", "parameters": []}]}, 'Output "x" has "parameters" that is an array'),
        ({"outputs": [{"name": "x", "parameters": {"classification": 3}}]}, 'Output "x" asks for classification'),
        ({"outputs": [{"name": "x", "parameters": {"shared_memory_region": "r"}}]}, "asks for shared_memory_region"),
        ({"parameters": [1]}, 'The body has "parameters" that is an array'),
        ({"parameters": "top_k=3"}, 'The body has "parameters" that is a string'),
    ],
)
def test_v2_outputs_and_parameters_that_cannot_be_are_refused(more: dict[str, Any], told: str) -> None:
    assert told in refusal(KServev2Envelope, {**TWO, **more})


def test_v2_output_that_the_handler_did_not_make_is_refused() -> None:
    """One result for two inputs is named "predict", which is known when it is there."""
    body = {**TWO, "outputs": [{"name": "x"}]}
    with pytest.raises(PredictionException, match=r'asks for "x", which there is not; this request can have "predict"'):
        answer(KServev2Envelope, body, Recorder(answers=[1]))


def test_v2_parameters_of_a_request_reach_its_handler() -> None:
    found = []

    def handle(data: list[Any], context: Any) -> list[Any]:
        found.append(context.input_parameters)
        return [1 for _ in data]

    for parameters in ({"top_k": 3, "sequence_id": 7, "timeout": 1, "priority": 2, "triton_x": 3}, None):
        answer(KServev2Envelope, {**ONE, "parameters": parameters}, handle)
    assert found == [{"top_k": 3}, {}]
