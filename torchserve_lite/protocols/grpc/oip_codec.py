"""KServe's gRPC tensors as the V2 JSON of its REST protocol, which the worker understands, and the answer back.

Only this module knows that tensors travel to the worker as JSON. What they are is checked here as far as it takes to
read them; whether each number fits its datatype is for the worker to say, as with REST.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest, InvalidAnswer

Message = Any
"""Of a class that is made at run time from the protos."""

_MOST_DIMENSIONS = 32
_LARGEST_DIMENSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Datatype:
    """``code``: the struct module's. ``field``: of InferTensorContents, empty where a value can only be sent raw."""

    code: str
    size: int
    field: str = ""
    floating: bool = False


_BYTES = _Datatype("", 0, "bytes_contents")
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
    "FP16": _Datatype("e", 2, floating=True),
    "BF16": _Datatype("", 2, floating=True),
    "FP32": _Datatype("f", 4, "fp32_contents", floating=True),
    "FP64": _Datatype("d", 8, "fp64_contents", floating=True),
    "BYTES": _BYTES,
}


def json_of(request: Message) -> bytes:
    """The body that a REST client would send for the same. BadRequest names the tensor that cannot be read."""
    raw: Sequence[bytes] = request.raw_input_contents
    given = len(request.inputs)
    if raw and len(raw) < given:
        missing = request.inputs[len(raw)].name
        raise BadRequest(f'Tensor "{missing:.80}" has no entry in raw_input_contents ({len(raw)} for {given} inputs).')
    if len(raw) > given:
        last = f', the last of which is tensor "{request.inputs[-1].name:.80}"' if given else ""
        raise BadRequest(f"raw_input_contents has {len(raw)} entries for {given} inputs{last}.")
    inputs = []
    for tensor, content in itertools.zip_longest(request.inputs, raw):
        inputs.append(_input_of(tensor, content))
    document: dict[str, Any] = {"inputs": inputs}
    if request.id:
        document["id"] = request.id
    if request.parameters:
        document["parameters"] = _parameters_of(request.parameters, "The request")
    if request.outputs:
        document["outputs"] = [
            {"name": one.name, "parameters": _parameters_of(one.parameters, f'Output "{one.name:.80}"')}
            for one in request.outputs
        ]
    return msgspec.json.encode(document)


def _input_of(tensor: Message, raw: bytes | None) -> dict[str, Any]:
    label = f'Tensor "{tensor.name:.80}"'
    name = tensor.datatype.upper()
    datatype = _DATATYPES.get(name)
    if datatype is None:
        raise BadRequest(
            f"{label} has the unknown datatype {tensor.datatype!r:.80}; the known ones are {', '.join(_DATATYPES)}."
        )
    shape = _shape_of(tensor, label, open_ended=datatype is _BYTES)
    expected = None if -1 in shape else math.prod(shape)
    parameters = _parameters_of(tensor.parameters, label)
    if any(key.startswith("shared_memory") for key in parameters):
        raise BadRequest(f"{label} lies in shared memory, which this server does not read: send its contents.")
    values: Sequence[Any]
    if raw is None:
        values = _typed_values(tensor, name, datatype, expected, shape, label)
    elif tensor.HasField("contents") and tensor.contents.ListFields():
        raise BadRequest(
            f"{label} has contents, and the request has raw_input_contents as well: send one or the other for all."
        )
    elif datatype is _BYTES:
        values = _raw_elements(raw, expected, shape, label)
    else:
        values = _raw_numbers(raw, name, datatype, math.prod(shape), shape, label)
    if datatype is _BYTES:
        values = [_text_of(element) for element in values]
    elif datatype.floating and not all(map(math.isfinite, values)):
        position = next(index for index, value in enumerate(values) if not math.isfinite(value))
        raise BadRequest(
            f"{label}: value {values[position]!r} at position {position} is not finite, which is not taken."
        )
    described = {"name": tensor.name, "shape": shape, "datatype": name, "data": values}
    return {**described, "parameters": parameters} if parameters else described


def _shape_of(tensor: Message, label: str, *, open_ended: bool) -> list[int]:
    """``open_ended``: TorchServe's own samples send the shape [-1] with BYTES, for as many as there are."""
    shape = list(tensor.shape)
    if len(shape) > _MOST_DIMENSIONS:
        raise BadRequest(f"{label}: its shape has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} can be.")
    if min(shape, default=0) < 0 and not (open_ended and shape == [-1]):
        raise BadRequest(f"{label}: shape {shape} has a size below 0.")
    return shape


def _typed_values(
    tensor: Message, name: str, datatype: _Datatype, expected: int | None, shape: list[int], label: str
) -> list[Any]:
    if not datatype.field:
        raise BadRequest(f"{label} is {name}, which has no field in contents: send it in raw_input_contents.")
    for field, _ in tensor.contents.ListFields():
        if field.name != datatype.field:
            raise BadRequest(f"{label} is {name}, and has {field.name}: its values belong into {datatype.field}.")
    values = list(getattr(tensor.contents, datatype.field))
    if expected is not None and len(values) != expected:
        raise BadRequest(f"{label}: shape {shape} is for {expected} values, but {datatype.field} has {len(values)}.")
    return values


def _raw_numbers(raw: bytes, name: str, datatype: _Datatype, count: int, shape: list[int], label: str) -> Sequence[Any]:
    if len(raw) != count * datatype.size:
        raise BadRequest(
            f"{label}: shape {shape} of {name} takes {count * datatype.size} bytes, but its entry in "
            f"raw_input_contents has {len(raw)}."
        )
    if name == "BF16":
        return _from_bfloat16(raw)
    if name == "BOOL" and (stray := raw.strip(b"\x00\x01")):
        raise BadRequest(f"{label}: byte {stray[0]} at position {raw.index(stray[0])} is no BOOL, which is 0 or 1.")
    return struct.unpack(f"<{count}{datatype.code}", raw)


def _raw_elements(raw: bytes, expected: int | None, shape: list[int], label: str) -> list[bytes]:
    """Each has its length before it, in four bytes."""
    if expected is not None and expected * 4 > len(raw):
        raise BadRequest(
            f"{label}: shape {shape} is for {expected} elements with 4 bytes of length each, but its entry in "
            f"raw_input_contents has {len(raw)} bytes in all."
        )
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        if len(elements) == expected:
            raise BadRequest(
                f"{label}: shape {shape} is for {expected} elements, but {len(raw) - position} bytes follow them."
            )
        start = position + 4
        (length,) = struct.unpack_from("<I", raw, position) if start <= len(raw) else (0,)
        position = start + length
        if position > len(raw):
            raise BadRequest(
                f"{label}: element {len(elements)} ends at byte {position} by its length, but there are {len(raw)}."
            )
        elements.append(raw[start:position])
    if expected is not None and len(elements) != expected:
        raise BadRequest(f"{label}: shape {shape} is for {expected} elements, but there are {len(elements)}.")
    return elements


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


def fill_response(response: Message, body: Buffer, *, raw: bool) -> Message:
    """``response``, an empty one, with the model's V2 JSON answer in it. ``raw``: as the request was; half precision is
    never sent in another way. InvalidAnswer when it is none."""
    try:
        document = _decoded(body)
        outputs = [_Output.of(output) for output in document["outputs"]]
        response.model_name = document.get("model_name") or ""
        response.model_version = document.get("model_version") or ""
        response.id = document.get("id") or ""
        _set_parameters(response.parameters, document.get("parameters"))
        raw = raw or not all(output.datatype.field for output in outputs)
        for output in outputs:
            tensor = response.outputs.add(name=output.name, datatype=output.datatype_name, shape=output.shape)
            _set_parameters(tensor.parameters, output.parameters)
            if raw:
                response.raw_output_contents.append(output.raw())
            else:
                getattr(tensor.contents, output.datatype.field).extend(output.values)
    except InvalidAnswer:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise InvalidAnswer(f"It is no V2 answer ({type(error).__name__}: {error}).") from error
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    name: str
    datatype_name: str
    shape: list[int]
    values: list[Any]
    parameters: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, output: Mapping[str, Any]) -> _Output:
        name, datatype_name, shape = output["name"], output["datatype"], output["shape"]
        datatype = _DATATYPES.get(datatype_name)
        if datatype is None:
            raise InvalidAnswer(f'Its output "{name:.80}" has the unknown datatype {datatype_name!r:.80}.')
        values = _flat(output["data"])
        if len(values) != math.prod(shape):
            raise InvalidAnswer(f'Its output "{name:.80}" has {len(values)} values for the shape {shape}.')
        if datatype is _BYTES:
            values = [_bytes_of(value) for value in values]
        elif datatype.floating:
            values = [math.nan if value is None else value for value in values]  # JSON has no other way to say NaN
        parameters = output.get("parameters")
        return cls(name=name, datatype_name=datatype_name, shape=shape, values=values, parameters=parameters)

    @property
    def datatype(self) -> _Datatype:
        return _DATATYPES[self.datatype_name]

    def raw(self) -> bytes:
        if self.datatype is _BYTES:
            return b"".join(part for element in self.values for part in (struct.pack("<I", len(element)), element))
        if self.datatype_name == "BF16":
            return _to_bfloat16(self.values)
        return struct.pack(f"<{len(self.values)}{self.datatype.code}", *self.values)


def fill_piece(response: Message, piece: Buffer, *, raw: bool) -> Message:
    """``response`` with what a handler has streamed before its result, as the one element of a BYTES tensor."""
    tensor = response.outputs.add(name="predict", datatype="BYTES", shape=[1])
    if raw:
        response.raw_output_contents.append(struct.pack("<I", len(piece)) + bytes(piece))
    else:
        tensor.contents.bytes_contents.append(bytes(piece))
    return response


def _set_parameters(parameters: Message, values: Mapping[str, Any] | None) -> None:
    for key, value in (values or {}).items():
        if isinstance(value, bool):
            parameters[key].bool_param = value
        elif isinstance(value, int):
            parameters[key].int64_param = value
        elif isinstance(value, float):
            parameters[key].double_param = value
        else:
            parameters[key].string_param = value if isinstance(value, str) else json.dumps(value)


def _text_of(element: bytes) -> str:
    """UTF-8 where it is that, else base64, as answers have it: handlers read pictures either way."""
    try:
        return element.decode()
    except UnicodeDecodeError:
        return base64.b64encode(element).decode("ascii")


def _bytes_of(value: Any) -> bytes:
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


def _from_bfloat16(raw: bytes) -> Sequence[float]:
    """They are the upper halves of FP32."""
    widened = bytearray(2 * len(raw))
    widened[2::4], widened[3::4] = raw[0::2], raw[1::2]
    return struct.unpack(f"<{len(raw) // 2}f", widened)


def _to_bfloat16(values: Iterable[float]) -> bytes:
    """Rounded to the nearest one, and to the even one between two."""
    numbers = list(values)
    bits = struct.unpack(f"<{len(numbers)}I", struct.pack(f"<{len(numbers)}f", *numbers))
    halves = [
        0x7FC0 if math.isnan(number) else (bit + 0x7FFF + (bit >> 16 & 1)) >> 16
        for number, bit in zip(numbers, bits, strict=True)
    ]
    return struct.pack(f"<{len(halves)}H", *halves)
