"""Bodies of KServe's V1 and V2 protocols, through the link, the envelope, a handler and the packing, and back.

Beside each case goes a plain request in the same batch, which must be answered as if it were alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tests.conftest import spec_of
from tests.fuzz.results import ODD_RESULTS, odd_result
from tests.fuzz.target import Choices, Target
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey
from torchserve_lite.errors import InvalidInput
from torchserve_lite.ipc.frames import FrameDecoder, frame_of
from torchserve_lite.ipc.messages import (
    Answer,
    Answers,
    Call,
    FailureKind,
    Load,
    Predict,
    Reply,
    SentPart,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.handlers import Handler

Rows = list[Any]

_SCALARS: Sequence[Any] = (
    0, 1, -1, True, None, 255, 256, 65504.0, 65520.0, 0.5, -0.0, 3.4028235e38, 3.5e38, 1e308, 5e-324, 2**31, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, "", "a", "\0", "\ud800", "é", "iVBORw0eKGgo", "aGk=", "1", [],
    {}, [[]],
    {"b64": "aGk="}, {"b64": "%"}, {"b64": None}, {"b64": "a G k ="}, "x" * 300, 1e16, -2.5,
)  # fmt: skip
_DATATYPES = (
    "INT64", "FP32", "BYTES", "BOOL", "UINT8", "INT8", "UINT64", "FP16", "BF16", "FP64", "fp32", "INT", "UINT7", "",
    None, 7,
)  # fmt: skip
_SIZES = (1, 2, 3, 0, -1, 4, -2, True, 2**31, 2**62, 2**63, 2**64, 1.0, "2", None, 30_000_000)
_TYPES = ("", "application/json", "text/plain", "image/png", "application/x+json", "TEXT/é")
_LOAD = Load(spec=spec_of(key=ModelKey("m", "1.0"), handler="h"), model_dir=".")


class _Session:
    """One worker for all cases: what one of them breaks, the next one finds."""

    def __init__(self) -> None:
        self.handler: Callable[[Rows], Any] = list
        handler = Handler(self._handle, testing.context(manifest={"model": {}}, model_yaml_config={}))
        self._runner = BatchRunner(handler, _LOAD, lambda stage, row: None)

    def _handle(self, rows: Rows, context: Any) -> Any:
        return self.handler(rows)

    def replies(self, calls: Sequence[Call]) -> list[Reply]:
        """Over the link and back: the one last answer of each call."""
        (frame,) = _through_the_link(encode(Predict(1, tuple(calls))))
        predict = decode_to_worker(frame)
        assert isinstance(predict, Predict)
        early: list[Answer] = []
        last = self._runner.predict(predict.calls, early.extend, lambda index: False)
        (frame,) = _through_the_link(encode(Answers(1, (*early, *last))))
        answers = decode_from_worker(frame)
        assert isinstance(answers, Answers)
        found = {answer.index: answer.reply for answer in answers.answers if answer.last}
        assert sorted(found) == list(range(len(calls)))
        assert len(answers.answers) == len(calls)
        return [found[index] for index in range(len(calls))]


def _through_the_link(pieces: Any) -> Any:
    decoder, frames = FrameDecoder(), []
    for data in frame_of(pieces):
        view = memoryview(data)
        while len(view):
            room = decoder.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            frames += decoder.received(count)
            view = view[count:]
    return frames


_session = _Session()


def check_v1(data: bytes) -> None:
    """The first byte chooses the handler and the form, the second the envelope, the third what the handler returns."""
    choices, how = Choices(data[3:]), data[:3].ljust(3, b"\0")
    body = _v1_body(choices) if how[0] & 1 else choices.rest()
    envelope = ("kserve", "kserve", "json", "body", "")[how[1] % 5]
    kind = _TYPES[how[1] // 5 % len(_TYPES)] if not envelope else ""
    mate = b'{"instances": [1, "two"]}'
    case = Call("case", "explain" if how[1] & 0x80 else "predict", (SentPart("body", body, kind),), (), envelope)
    plain = Call("plain", "predict", (SentPart("body", mate),), (), "kserve")
    handler = how[0] >> 1 & 3
    if handler == 0:
        _session.handler = list
        reply, beside = _session.replies([case, plain])
        if _answered(reply) and envelope == "kserve":
            _check_echo(body, _json_of(reply), "explanations" if how[1] & 0x80 else "predictions")
        assert _json_of(beside) == {"predictions": [1, "two"]}
    elif handler == 1:
        _session.handler = lambda rows: [_array(row) for row in rows]
        reply, beside = _session.replies([case, plain])
        if _answered(reply) and envelope:
            _json_of(reply)
        assert _json_of(beside)["predictions"][0] == 1
    else:
        _check_odd_results(case, how[2])


def check_v2(data: bytes) -> None:
    choices, how = Choices(data[3:]), data[:3].ljust(3, b"\0")
    body = _v2_body(choices) if how[0] & 1 else choices.rest()
    envelope = ("kservev2", "kservev2", "kserve")[how[1] % 3]
    case = Call("case", "explain" if how[1] & 0x80 else "predict", (SentPart("body", body),), (), envelope)
    mate = b'{"id": "p", "inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [3, 4]}]}'
    plain = Call("plain", "predict", (SentPart("body", mate),), (), "kservev2")
    if how[0] & 6 > 2:
        _check_odd_results(case, how[2])
        return
    tensors = how[0] & 2
    _session.handler = lambda rows: [_tensor_of(row) if tensors else _data(row) for row in rows]
    reply, beside = _session.replies([case, plain])
    if _answered(reply):
        answer = _json_of(reply)
        if not tensors and "outputs" in answer:
            _check_v2_echo(body, answer)
    assert _json_of(beside)["outputs"] == [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [3, 4]}]


def _check_odd_results(case: Call, kind: int) -> None:
    """What a handler returns may have no form on the wire, but our own code must not stumble over it."""
    made: list[Any] = []

    def handler(rows: Rows) -> Any:
        made.extend(odd_result(kind + index) for index in range(len(rows)))
        return made if kind % 7 else made[:-1]

    _session.handler = handler
    (reply,) = _session.replies([case])
    assert reply.failure in ("", FailureKind.REFUSED, FailureKind.HANDLER, FailureKind.CODE), reply
    assert isinstance(reply.body, bytes | bytearray)
    assert b"the model's log says why" not in reply.body, (reply.body, [type(value) for value in made][:3])
    if not reply.failure and case.envelope not in ("", "body"):
        _json_of(reply)


def _answered(reply: Reply) -> bool:
    """False: it was refused, with a text that can be sent. A handler that cannot fail leaves nothing else."""
    if not reply.failure:
        assert reply.status == 200
        return True
    assert reply.failure == FailureKind.REFUSED or (reply.failure, reply.status) == (FailureKind.CODE, 400), reply
    assert isinstance(reply.body, bytes | bytearray)
    assert len(reply.body) < 2000
    json.loads(reply_to(InvalidInput(reply.body.decode()), ErrorForm.KSERVE).json)
    return False


def _json_of(reply: Reply) -> Any:
    assert not reply.failure, reply
    assert isinstance(reply.body, bytes | bytearray)
    return json.loads(reply.body, parse_constant=_no_json)


def _no_json(token: str) -> Any:
    raise AssertionError(f"{token} is no JSON")


def _check_echo(body: bytes, answer: Any, key: str) -> None:
    document = json.loads(body)
    if "instances" not in document and isinstance(document.get("data"), dict):
        document = document["data"]
    if "instances" in document:
        assert answer == {key: _without_infinities(document["instances"])}


def _check_v2_echo(body: bytes, answer: Any) -> None:
    document = json.loads(body)
    if "inputs" not in document:
        document = document["data"]
    inputs = {tensor["name"]: tensor for tensor in document["inputs"]}
    if len(inputs) == 1:
        inputs = {output["name"]: tensor for output in answer["outputs"] for tensor in inputs.values()}
    wanted = [output["name"] for output in document.get("outputs") or []]
    assert [output["name"] for output in answer["outputs"]] == (wanted or list(inputs))
    for output in answer["outputs"]:
        tensor = inputs[output["name"]]
        if str(tensor["datatype"]).upper() == "BYTES":
            continue
        sent = _leaves(tensor["data"])
        assert output["data"] == sent or all(map(_equal, output["data"], sent)), (tensor, output)
        assert len(output["data"]) == len(sent)
        assert math.prod(output["shape"]) == len(sent), (tensor, output)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or abs(one - other) <= abs(one) * 1e-6


def _without_infinities(value: Any) -> Any:
    """1e999 is JSON, and what a float makes of it is not."""
    if isinstance(value, list):
        return [_without_infinities(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_infinities(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _leaves(value: Any) -> list[Any]:
    return [leaf for entry in value for leaf in _leaves(entry)] if isinstance(value, list) else [value]


def _data(row: Any) -> Any:
    return row["data"] if isinstance(row, dict) and "data" in row else row


def _array(row: Any) -> Any:
    try:
        return np.array(_data(row))
    except (ValueError, OverflowError, RecursionError):
        return np.array(repr(type(row)), dtype=object)


def _tensor_of(row: Any) -> Any:
    array = _array(row)
    return torch.from_numpy(array) if array.dtype.name in ("bool", "int64", "float64") else _data(row)


def _v1_body(choices: Choices) -> bytes:
    document: dict[str, Any] = {"instances": [_value(choices) for _ in range(choices.below(5) + 1)]}
    if choices.chance(4):
        document[choices.one_of(("parameters", "id", "inputs", "signature_name", "instances"))] = _value(choices)
    if choices.chance(5):
        document = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": document}
    return _written(document, choices)


def _v2_body(choices: Choices) -> bytes:
    document: dict[str, Any] = {"inputs": [_tensor(choices) for _ in range(choices.below(3) + 1)]}
    if choices.chance(3):
        document["id"] = _value(choices)
    if choices.chance(3):
        document[choices.one_of(("parameters", "outputs", "instances"))] = _value(choices)
    if choices.chance(4):
        names = [choices.one_of(("a", "b", "", "predict")) for _ in range(choices.below(3))]
        document["outputs"] = [{"name": name} for name in names]
    if choices.chance(7):
        document = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": document}
    return _written(document, choices)


def _tensor(choices: Choices) -> Any:
    datatype = choices.one_of(_DATATYPES) if choices.chance(3) else choices.one_of(_DATATYPES[:10])
    if choices.chance(3):
        shape = [choices.one_of(_SIZES) for _ in range(choices.below(5))]
        data = _value(choices)
    else:  # one that holds together, more often than not
        shape = [choices.below(3) + (not choices.chance(8)) for _ in range(choices.below(4))]
        data = _nested(choices, shape, datatype)
    tensor = {
        "name": choices.one_of(("a", "b", "", "a", choices.text())),
        "shape": shape,
        "datatype": datatype,
        "data": data,
    }
    if choices.chance(6):
        tensor[choices.one_of(("parameters", "name", "shape", "datatype", "data"))] = _value(choices)
    if choices.chance(8):
        del tensor[choices.one_of(tuple(tensor))]
    return tensor


def _nested(choices: Choices, shape: Sequence[Any], datatype: Any) -> Any:
    flat = choices.chance()
    sizes = [math.prod(shape)] if flat else list(shape)

    def fill(depth: int) -> Any:
        if depth == len(sizes):
            return _SCALARS[choices.below(len(_SCALARS))] if choices.chance(12) else _fitting(choices, datatype)
        return [fill(depth + 1) for _ in range(sizes[depth])]

    return fill(0)


def _fitting(choices: Choices, datatype: Any) -> Any:
    number = choices.below(128)
    if datatype == "BYTES":
        return choices.text(4)
    if datatype == "BOOL":
        return bool(number & 1)
    return number / 4 if "F" in str(datatype) else number


def _value(choices: Choices, depth: int = 0) -> Any:
    kind = choices.below(8)
    if depth > 4 or kind < 4:
        return choices.one_of(_SCALARS)
    if kind < 6:
        return [_value(choices, depth + 1) for _ in range(choices.below(4))]
    if kind == 6:
        return {choices.text(4): _value(choices, depth + 1) for _ in range(choices.below(4))}
    return choices.text()


def _written(document: Any, choices: Choices) -> bytes:
    text = json.dumps(document, ensure_ascii=choices.chance(), indent=None if choices.chance() else 1)
    return text.encode(choices.one_of(("utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1")), "replace")


_WORDS = [
    *(json.dumps(value).encode() for value in _SCALARS),
    *(f'"{name}"'.encode() for name in _DATATYPES),
    *(str(size).encode() for size in _SIZES),
    b'"instances":', b'"inputs":', b'"name":', b'"shape":', b'"datatype":', b'"data":', b'"id":', b'"parameters":',
    b'{"b64":',
    b"NaN", b"Infinity", b"1e999", b"[" * 40, b"]" * 40, b'\\ud800', b"\xef\xbb\xbf", b"\\u0000", b"-0", b"9" * 60,
]  # fmt: skip
_V1 = [
    b'{"instances": [1, 2.5, "a", null, [1, [2]], {"b64": "aGk="}]}',
    b'{"instances": [{"data": [1, 2]}, {"a": {"b64": "aGk="}}], "parameters": {"k": 1}}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"instances": [1]}}',
    b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}',
    b'{"instances": [' + b"[" * 2000 + b"]" * 2000 + b"]}",
    b'{"instances": [' + b"9" * 3000 + b"]}",
]
_V2 = [
    b'{"id": "q", "inputs": [{"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3.5, 4]]}]}',
    b'{"inputs": [{"name": "a", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]}, {"name": "b", "shape": [1], '
    b'"datatype": "INT64", "data": [7]}], "outputs": [{"name": "b"}, {"name": "a"}]}',
    b'{"inputs": [{"name": "a", "shape": [-1, 2], "datatype": "INT8", "parameters": {"a": 1}, "data": [1, 2]}]}',
    b'{"inputs": [{"name": "a", "shape": [30000000, 0], "datatype": "INT64", "data": []}]}',
    b'{"inputs": [{"name": "a", "shape": [0, 4611686018427387904], "datatype": "UINT64", "data": []}]}',
    b'{"inputs": [{"name": "a", "shape": 1, "datatype": "BOOL", "data": true}]}',
]
_ODD = [bytes([how, how // 7, how]) + bytes([17 * how % 251, how, 3, 90, how // 2]) * 8 for how in range(1, 256, 5)]

TARGETS = {
    "v1": Target(
        check=check_v1,
        seeds=[bytes([handler * 2, e, 0]) + body for body in _V1 for handler in (0, 1, 2) for e in (0, 2, 3, 4)]
        + [bytes([4, envelope, kind]) + _V1[0] for envelope in (0, 2) for kind in range(0, ODD_RESULTS, 3)]
        + _ODD,
        words=_WORDS,
    ),
    "v2": Target(
        check=check_v2,
        seeds=[bytes([handler, 0, 0]) + body for body in _V2 for handler in (0, 2, 4)]
        + [bytes([4, 0, kind]) + _V2[0] for kind in range(ODD_RESULTS)]
        + _ODD,
        words=_WORDS,
    ),
}
