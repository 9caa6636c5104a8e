"""V2 bodies whose tensors are bytes behind the JSON: what comes in goes out again, or is refused."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.fuzz import bodies
from tests.fuzz.target import Choices, Target
from torchserve_lite.errors import BadRequest
from torchserve_lite.ipc.messages import Call, SentPart
from torchserve_lite.protocols.tensors import TENSORS, tensor_parts

_NUMPY = {"BOOL": "bool", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_NUMPY |= {f"{sign}INT{8 * size}": f"<{sign.lower() or 'i'}{size}" for sign in ("U", "") for size in (1, 2, 4, 8)}
_PLAIN = b'{"id": "p", "inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [3, 4]}]}'


def check_tensors(data: bytes) -> None:
    """The first byte says whether the rest is the head's length and a body, or decisions of which one is made."""
    choices = Choices(data[1:])
    if data[:1] > b"\x7f":
        announced, body, sent = str(choices.below(256)), choices.rest(), None
    else:
        announced, body, sent = _made(choices)
    try:
        head, behind = tensor_parts(body, announced)
    except BadRequest:
        return
    parts = (SentPart("body", bytes(head.data)), SentPart("tensors", bytes(behind.data)))
    case = Call("case", "predict", parts, (), "kservev2")
    plain = Call("plain", "predict", (SentPart("body", _PLAIN),), (), "kservev2")
    bodies._session.handler = lambda rows: [_typed(row) for row in rows]
    reply, beside = bodies._session.replies([case, plain])
    assert bodies._json_of(beside)["outputs"][0]["data"] == [3, 4]
    if not bodies._answered(reply):
        return
    assert isinstance(reply.body, bytes | bytearray)
    headers = dict(reply.headers)
    size = int(headers.get(TENSORS, len(reply.body)))
    answer = json.loads(reply.body[:size], parse_constant=bodies._no_json)
    if sent is not None and TENSORS in headers:
        _check_returned(answer["outputs"], bytes(reply.body[size:]), sent)


def _made(choices: Choices) -> tuple[str, bytes, Sequence[tuple[Any, bytes]]]:
    """What announces the JSON, the body, and each tensor's datatype and content: right in most cases."""
    inputs: list[Mapping[str, Any]] = []
    sent: list[tuple[Any, bytes]] = []
    for number in range(1 + choices.below(3)):
        datatype = choices.one_of(bodies._DATATYPES)
        shape: list[Any] = [choices.below(4) for _ in range(choices.below(3))]
        if choices.chance(8):
            shape.append(choices.one_of(bodies._SIZES))
        content = choices.some(choices.below(32)) if choices.chance(6) else _content(choices, datatype, shape)
        size = choices.one_of(bodies._SIZES) if choices.chance(12) else len(content)
        more = {"data": [1]} if choices.chance(20) else {}
        parameters = {"binary_data_size": size}
        inputs.append({"name": f"t{number}", "shape": shape, "datatype": datatype, "parameters": parameters, **more})
        sent.append((datatype, content))
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": not choices.chance(4)}}).encode()
    announced = str(choices.one_of(bodies._SIZES)) if choices.chance(16) else str(len(head))
    more_bytes = choices.some(3) if choices.chance(16) else b""
    return announced, head + b"".join(content for _, content in sent) + more_bytes, sent


def _content(choices: Choices, datatype: Any, shape: Sequence[Any]) -> bytes:
    """As many bytes as the shape takes, within reason."""
    count = math.prod(size if type(size) is int and 0 <= size < 4 else 1 for size in shape)
    if datatype == "BYTES":
        elements = [choices.some(choices.below(6)) for _ in range(count)]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    width = np.dtype(_NUMPY.get(str(datatype).upper(), "<u2")).itemsize
    content = choices.some(count * width).ljust(count * width, b"\0")
    return bytes(byte & 1 for byte in content) if datatype == "BOOL" else content


def _typed(row: Any) -> Any:
    datatype = str(row["datatype"]).upper()
    return row["data"] if datatype == "BYTES" else np.array(row["data"], dtype=_NUMPY.get(datatype, "<f4"))


def _check_returned(outputs: Sequence[Mapping[str, Any]], behind: bytes, sent: Sequence[tuple[Any, bytes]]) -> None:
    assert len(outputs) == len(sent)
    for output, (datatype, content) in zip(outputs, sent, strict=True):
        size = output["parameters"]["binary_data_size"]
        returned, behind = behind[:size], behind[size:]
        name = str(datatype).upper()
        if name in _NUMPY:
            one, other = (np.frombuffer(piece, dtype=_NUMPY[name]) for piece in (content, returned))
            assert np.array_equal(one, other, equal_nan=name.startswith("FP")), (output, content, returned)
        elif name == "BYTES":
            assert returned == content, (output, content, returned)
    assert not behind


_SEEDS = [bytes([0, count, kind, 2, 2, 1, 0, 0, 0, 0]) + bytes(range(64)) for count in range(3) for kind in range(16)]
_HEAD = b'{"inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}'

TARGETS = {
    "tensors": Target(
        check=check_tensors,
        seeds=[*_SEEDS, bytes([0x80, len(_HEAD)]) + _HEAD + bytes(8), bytes([0x80, 0]) + bytes(8)],
        words=[*bodies._WORDS, b'"binary_data_size":', b"\x04\0\0\0", b"\xff\xff\xff\xff"],
    )
}
