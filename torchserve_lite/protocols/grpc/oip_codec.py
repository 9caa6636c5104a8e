"""KServe's gRPC tensors as the body of its REST protocol, JSON with binary tensors behind it, and the answer back.

Between here and the worker all tensors are bytes: raw contents are taken as they are, typed ones are packed and
unpacked. What the bytes are worth is for the worker to say, as with REST.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from torchserve_lite.core.requests import InferenceResponse, Part
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest, InvalidAnswer
from torchserve_lite.protocols.http.answers import JSON
from torchserve_lite.protocols.tensors import OCTETS, json_size

Message = Any
"""Of a class that is made at run time from the protos."""

_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class _Datatype:
    """``code``: the struct module's, of ``size`` bytes. ``field``: of InferTensorContents, empty where a value can only
    be sent raw."""

    code: str
    size: int
    field: str = ""


_BYTES = _Datatype("", 1, "bytes_contents")
_DATATYPES = {
    "BOOL": _Datatype("?", 1, "bool_contents"),
    "UINT8": _Datatype("B", 1, "uint_contents"),
    "UINT16": _Datatype("H", 2, "uint_contents"),
    "UINT32": _Datatype("I", 4, "uint_contents"),
    "UINT64": _Datatype("Q", 8, "uint64_contents"),
    "INT8": _Datatype("b", 1, "int_contents"),
    "INT16": _Datatype("h", 2, "int_contents"),
    "INT32": _Datatype("i", 4, "int_contents"),
    "INT64": _Datatype("q", 8, "int64_contents"),
    "FP16": _Datatype("e", 2),
    "BF16": _Datatype("", 2),
    "FP32": _Datatype("f", 4, "fp32_contents"),
    "FP64": _Datatype("d", 8, "fp64_contents"),
    "BYTES": _BYTES,
}


def parts_of(request: Message) -> tuple[Part, Part]:
    """The body that a REST client would send for the same, and be answered in binary. BadRequest names the tensor that
    cannot be sent on."""
    raw: Sequence[bytes] = request.raw_input_contents
    given = len(request.inputs)
    if raw and len(raw) < given:
        missing = request.inputs[len(raw)].name
        raise BadRequest(f'Tensor "{missing:.80}" has no entry in raw_input_contents ({len(raw)} for {given} inputs).')
    if len(raw) > given:
        last = f', the last of which is tensor "{request.inputs[-1].name:.80}"' if given else ""
        raise BadRequest(f"raw_input_contents has {len(raw)} entries for {given} inputs{last}.")
    inputs, contents = [], []
    for tensor, content in itertools.zip_longest(request.inputs, raw):
        label = f'Tensor "{tensor.name:.80}"'
        parameters = _parameters_of(tensor.parameters, label)
        if any(key.startswith("shared_memory") for key in parameters):
            raise BadRequest(f"{label} lies in shared memory, which this server does not read: send its contents.")
        if content is None:
            content = _packed_contents(tensor, label)
        elif tensor.HasField("contents") and tensor.contents.ListFields():
            raise BadRequest(
                f"{label} has contents, and the request has raw_input_contents as well: send one or the other for all."
            )
        parameters[_SIZE] = len(content)
        shape = list(tensor.shape)
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "parameters": parameters})
        contents.append(content)
    document: dict[str, Any] = {"inputs": inputs}
    document["parameters"] = {**_parameters_of(request.parameters, "The request"), "binary_data_output": True}
    if request.id:
        document["id"] = request.id
    if request.outputs:
        document["outputs"] = [_output_of(one) for one in request.outputs]
    tensors = contents[0] if len(contents) == 1 else b"".join(contents)
    return Part("body", msgspec.json.encode(document), JSON), Part("tensors", tensors, OCTETS)


def _output_of(output: Message) -> dict[str, Any]:
    parameters = _parameters_of(output.parameters, f'Output "{output.name:.80}"')
    return {"name": output.name, "parameters": {**parameters, "binary_data": True}}


def _packed_contents(tensor: Message, label: str) -> bytes:
    name = tensor.datatype.upper()
    datatype = _DATATYPES.get(name)
    if datatype is None:
        raise BadRequest(
            f"{label} has the unknown datatype {tensor.datatype!r:.80}; the known ones are {', '.join(_DATATYPES)}."
        )
    if not datatype.field:
        raise BadRequest(f"{label} is {name}, which has no field in contents: send it in raw_input_contents.")
    for field, _ in tensor.contents.ListFields():
        if field.name != datatype.field:
            raise BadRequest(f"{label} is {name}, and has {field.name}: its values belong into {datatype.field}.")
    values = getattr(tensor.contents, datatype.field)
    try:
        return _packed(values, datatype)
    except struct.error:
        position, value = next(_unfit(values, datatype))
        raise BadRequest(f"{label}: value {value} at position {position} of {datatype.field} is not {name}.") from None


def _packed(values: Sequence[Any], datatype: _Datatype) -> bytes:
    if datatype is _BYTES:
        return b"".join(piece for element in values for piece in (struct.pack("<I", len(element)), element))
    return struct.pack(f"<{len(values)}{datatype.code}", *values)


def _unfit(values: Sequence[Any], datatype: _Datatype) -> Iterator[tuple[int, Any]]:
    for position, value in enumerate(values):
        try:
            _packed([value], datatype)
        except struct.error:
            yield position, value


def _parameters_of(parameters: Mapping[str, Message], owner: str) -> dict[str, bool | int | str | float]:
    values = {}
    for key, parameter in parameters.items():
        chosen = parameter.WhichOneof("parameter_choice")
        if chosen is None:
            raise BadRequest(f'{owner} has the parameter "{key:.80}" without a value.')
        values[key] = getattr(parameter, chosen)
        if isinstance(values[key], float) and not math.isfinite(values[key]):
            raise BadRequest(f'{owner} has the parameter "{key:.80}" that is not finite ({values[key]}).')
    return values


def fill_response(response: Message, answer: InferenceResponse, *, raw: bool) -> Message:
    """``response``, an empty one, with the model's V2 answer in it. ``raw``: as the request was; half precision is
    always sent so. InvalidAnswer when it is no answer of tensors."""
    try:
        size = json_size(answer.headers, len(answer.body))
        document = _decoded(memoryview(answer.body)[:size])
        outputs = list(_outputs_of(document, memoryview(answer.body)[size:]))
        response.model_name = document.get("model_name") or ""
        response.model_version = document.get("model_version") or ""
        response.id = document.get("id") or ""
        _set_parameters(response.parameters, document.get("parameters"))
        raw = raw or not all(_DATATYPES[output["datatype"]].field for output, _ in outputs)
        for output, content in outputs:
            datatype = _DATATYPES[output["datatype"]]
            tensor = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
            _set_parameters(tensor.parameters, output.get("parameters"))
            if raw:
                response.raw_output_contents.append(bytes(content))
            else:
                getattr(tensor.contents, datatype.field).extend(_unpacked(content, datatype))
    except InvalidAnswer:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise InvalidAnswer(f"It is no V2 answer ({type(error).__name__}: {error}).") from error
    return response


def _outputs_of(document: Any, behind: memoryview) -> Iterator[tuple[dict[str, Any], Buffer]]:
    """Each output and its bytes, of which ``behind`` has those that are not in the JSON."""
    taken = 0
    for output in document["outputs"]:
        name, shape = output["name"], output["shape"]
        datatype = _DATATYPES.get(output["datatype"])
        if datatype is None:
            raise InvalidAnswer(f'Its output "{name:.80}" has the unknown datatype {output["datatype"]!r:.80}.')
        content: Buffer
        size = (output.get("parameters") or {}).get(_SIZE)
        if size is not None:
            taken += size
            content = behind[taken - size : taken]
        else:
            values = _flat(output["data"])
            if datatype is _BYTES:
                values = [_element_of(value) for value in values]
            elif datatype.field.startswith("fp"):
                values = [math.nan if value is None else value for value in values]  # JSON's only way to say NaN
            content = _packed(values, datatype)
        if datatype is not _BYTES and len(content) != math.prod(shape) * datatype.size:
            raise InvalidAnswer(f'Its output "{name:.80}" has {len(content)} bytes for the shape {shape}.')
        yield output, content


def _unpacked(content: Buffer, datatype: _Datatype) -> Sequence[Any]:
    if datatype is not _BYTES:
        return struct.unpack(f"<{len(content) // datatype.size}{datatype.code}", content)
    elements = []
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<I", content, position)
        elements.append(bytes(content[position + 4 : position + 4 + length]))
        position += 4 + length
    return elements


def fill_piece(response: Message, piece: Buffer, *, raw: bool) -> Message:
    """``response`` with what a handler has streamed before its result, as the one element of a BYTES tensor."""
    tensor = response.outputs.add(name="predict", datatype="BYTES", shape=[1])
    if raw:
        response.raw_output_contents.append(_packed([bytes(piece)], _BYTES))
    else:
        tensor.contents.bytes_contents.append(bytes(piece))
    return response


def _set_parameters(parameters: Message, values: Mapping[str, Any] | None) -> None:
    for key, value in (values or {}).items():
        if key == _SIZE:  # of the way here
            continue
        if isinstance(value, bool):
            parameters[key].bool_param = value
        elif isinstance(value, int):
            parameters[key].int64_param = value
        elif isinstance(value, float):
            parameters[key].double_param = value
        else:
            parameters[key].string_param = value if isinstance(value, str) else json.dumps(value)


def _element_of(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="replace")


def _decoded(body: Buffer) -> Any:
    """msgspec takes a tenth of the time, and is stricter: handlers may have halves of surrogate pairs in a text."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return json.loads(bytes(body))


def _flat(data: Any) -> list[Any]:
    """``data`` may be nested as its shape says."""
    values: list[Any] = data
    while values and all(isinstance(value, list) for value in values):
        values = list(itertools.chain.from_iterable(values))
    return values
