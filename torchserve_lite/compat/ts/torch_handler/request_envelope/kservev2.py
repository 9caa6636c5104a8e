"""KServe's V2 protocol (Open Inference Protocol): named tensors in, named tensors out."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ts.torch_handler.request_envelope.base import (
    BaseEnvelope,
    OpenedRequest,
    Row,
    bad_request,
    expect_count,
    expect_few_rows,
    header_is_true,
    is_tensor,
    json_kind,
    json_object,
    keys_of,
    on_the_cpu,
    plain,
    shown,
    text_of,
    unsendable_told,
    unwrap_event,
)
from ts.torch_handler.request_envelope.binary_tensors import (
    PART,
    BytesBehind,
    elements_in,
    numbers_in,
    packed_elements,
    packed_numbers,
    with_tensors,
)
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    import numpy as np

_NUMPY_NAMES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPES = {name: datatype for datatype, name in _NUMPY_NAMES.items()}
_LARGEST = {
    "FP16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "FP32": 3.4028234663852886e38,
    "FP64": 1.7976931348623157e308,
}
_KNOWN = (*_NUMPY_NAMES, "BF16", "BYTES")
_MOST_DIMENSIONS = 32  # numpy 1 has no more
_LARGEST_DIMENSION = 2**63 - 1
_MOST_INPUTS = 1000
_FOR_THE_SERVER = frozenset({"headers", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout"})
_MOST_LEARNED = 1000  # sets of names; clients may give each request its own
_MOST_OTHER_KEYS = 16  # of a tensor; each of its elements gets them


class KServev2Envelope(BaseEnvelope):
    """One row per input tensor, ``{name, shape, datatype, data}`` with ``data`` nested as ``shape`` says. A BYTES
    tensor is one row per element, whose ``data`` is the element.

    Several inputs may be the two inputs of a model, which takes their rows in one call, or a batch. Where
    ``signature`` names one input, they are a batch, and the call may be shared; where it names several, the request is
    ``alone``. Where nothing says it, the answers do (``learned``, by the names of the inputs): a request of such names
    was alone, and there was a result for each row. None: nothing is learned.
    ``output_names``: "predict" gives one input's output that name (``explain`` for an explanation) and the result's
    true shape; "inputs" names every output after an input and flattens it, as TorchServe 0.12 does.
    ``signature``: what the model config says of the model's tensors, each with name, datatype and shape. The outputs of
    a prediction have its names, where there are as many.
    """

    output_names = "predict"
    signature: Any = None
    learned: dict[tuple[str, ...], bool] | None = None
    one_document = True

    def unpack(self, row: Row, context: Any, index: int) -> list[Any]:
        behind = BytesBehind(row.get(PART))
        is_raw = PART in row and not row["body"]
        document = self._around_raw(behind) if is_raw else unwrap_event(json_object(row))
        tensors: list[list[Row]] = []
        for i, tensor in enumerate(_inputs_of(document)):
            tensors.append(tensor_rows(tensor, f"inputs[{i}]", behind))
            expect_few_rows(sum(map(len, tensors)))
        behind.expect_end()
        self.input_names = [rows[0]["name"] for rows in tensors]
        self._counts = [len(rows) for rows in tensors]
        if len(set(self.input_names)) < len(self.input_names):
            name = next(name for name in self.input_names if self.input_names.count(name) > 1)
            raise bad_request(f'"inputs" has more than one tensor of the name "{name:.80}"; each needs its own.')
        given_id = document.get("id")
        if given_id is not None and not isinstance(given_id, str):
            raise bad_request(f'"id" must be a string, not {json_kind(given_id)}.')
        self._id = given_id if given_id and given_id.strip() else context.get_request_id(index) or ""
        self._verb = "explain" if header_is_true(context, index, "explain") else "predict"
        outputs = self.signature.outputs if self.signature is not None and self._verb == "predict" else ()
        self._declared = [output.name for output in outputs]
        self._parameters = dict(_object_at(document, "parameters", "The body"))
        self._binary = _flag(self._parameters.pop("binary_data_output", False), "binary_data_output", "The body")
        possible = {*(self._declared or [self._verb]), *self.input_names}
        for key in [key for key in self._parameters if key in _FOR_THE_SERVER or key.startswith("triton_")]:
            del self._parameters[key]
        self._wanted = _wanted_outputs(document, possible, self._binary)
        self.alone = len(tensors) > 1 and not self._inputs_are_a_batch()
        return [row for rows in tensors for row in rows]

    def pack(self, results: list[Any], context: Any, index: int) -> Any:
        """An output is made of all rows of an input or, where the handler made one of them, of a result of its own."""
        expect_count(results, sum(self._counts), alone=len(self._counts) > 1)
        if self.alone and self.learned is not None and len(self.learned) < _MOST_LEARNED:
            self.learned.setdefault(tuple(self.input_names), len(results) == sum(self._counts))
        if len(results) == sum(self._counts):
            ends = itertools.accumulate(self._counts)
            groups = [results[end - count : end] for count, end in zip(self._counts, ends, strict=True)]
        else:
            groups = [[result] for result in results]
        if len(groups) > len(self.input_names):
            expect_count(results, len(self.input_names))
        made = dict(zip(self._names_of(groups), groups, strict=False))
        if len(groups) == 1 and len(self._declared) > 1 and _have_keys(groups[0], self._declared):
            made = {name: [result[name] for result in groups[0]] for name in self._declared}
        if missing := [name for name in self._wanted if name not in made]:
            raise _no_such_outputs(missing, made)
        outputs: list[dict[str, Any]] = []
        tensors: list[bytes] = []
        for name in self._wanted or made:
            group = made[name]
            value = group[0] if len(group) == 1 else group
            is_binary = self._wanted.get(name, self._binary) and not self.answer_begun and context.request_processor
            with unsendable_told():
                if is_binary:
                    datatype, shape, packed = pack_tensor(value)
                    tensors.append(packed)
                    content: dict[str, Any] = {"parameters": {"binary_data_size": len(packed)}}
                else:
                    datatype, shape, data = encode_tensor(value)
                    content = {"data": data}
            shape = [math.prod(shape)] if self.output_names == "inputs" else shape
            outputs.append({"name": name, "shape": shape, "datatype": datatype, **content})
        model = (context.manifest or {}).get("model") or {}
        answer = {
            "id": self._id,
            "model_name": context.model_name or model.get("modelName"),  # what it is served as
            "model_version": context.model_version or model.get("modelVersion") or "1.0",
            "outputs": outputs,
        }
        return with_tensors(answer, tensors, context, index) if tensors else answer

    def _names_of(self, groups: list[list[Any]]) -> Sequence[str]:
        if self.output_names == "inputs":
            return self.input_names
        if len(groups) == len(self._declared):
            return self._declared
        return [self._verb] if len(groups) == 1 else self.input_names

    def _around_raw(self, behind: BytesBehind) -> dict[str, Any]:
        """The document that stands for a body without JSON, which is all data of the model's only input."""
        inputs: Sequence[Any] = () if self.signature is None else self.signature.inputs
        if len(inputs) != 1 or inputs[0].shape.count(-1) > 1:
            raise bad_request(
                "A body without JSON (Inference-Header-Content-Length: 0) is for models whose model config names one "
                "input tensor, with at most one -1 in its shape (tensorSignature); send the JSON before the data."
            )
        [declared] = inputs
        tensor: dict[str, Any] = {"name": declared.name, "datatype": declared.datatype, "shape": list(declared.shape)}
        if declared.datatype == "BYTES":  # one element, without its length
            tensor |= {"shape": [1], "data": [bytes(behind.take(behind.left, declared.name))]}
        else:
            tensor["parameters"] = {"binary_data_size": behind.left}
        return {"inputs": [tensor], "parameters": {"binary_data_output": True}}

    def _declares_inputs(self) -> bool:
        return self.signature is not None and len(self.signature.inputs) > 0

    def _inputs_are_a_batch(self) -> bool:
        if self._declares_inputs():
            return len(self.signature.inputs) == 1
        return self.learned is not None and self.learned.get(tuple(self.input_names), False)

    def set_apart(self) -> bool:
        if self.alone or len(self._counts) == 1 or self.learned is None or self._declares_inputs():
            return False
        self.learned[tuple(self.input_names)] = False
        self.alone = True
        return True

    def before_call(self, context: Any, owners: Sequence[OpenedRequest] = ()) -> None:
        envelopes = dict.fromkeys(owner.envelope for owner in owners if owner.envelope is not None) or [self]
        context.input_names = [name for envelope in envelopes for name in envelope.input_names]
        context.input_request_id = self._id
        context.input_parameters = self._parameters

    def after_call(self, context: Any) -> None:
        for name in ("input_names", "input_request_id", "input_parameters"):  # the handler may have removed them
            vars(context).pop(name, None)


def holds_tensors(document: dict[str, Any]) -> bool:
    """Whether the body's ``inputs`` are meant as V2 tensors, right or wrong in detail."""
    inputs = document.get("inputs")
    return isinstance(inputs, list) and any(
        isinstance(tensor, dict) and ("datatype" in tensor or "shape" in tensor) for tensor in inputs
    )


def tensor_rows(tensor: Any, where: str, behind: BytesBehind) -> list[Row]:
    """An input tensor as rows for the handler, checked: a wrong one is a 400 that names it. What came as bytes is what
    would have come as JSON, but for elements of BYTES, which are bytes, and for NaN."""
    if not isinstance(tensor, dict):
        raise bad_request(f"{where} must be an object with name, shape, datatype and data, not {json_kind(tensor)}.")
    name = tensor.get("name")
    if not isinstance(name, str):
        raise bad_request(f'{where} has no "name".')
    label = f'Tensor "{name:.80}"'
    given = tensor.get("datatype")
    datatype = given.upper() if isinstance(given, str) else given
    if datatype not in _KNOWN:
        raise bad_request(f"{label} has the unknown datatype {shown(given)}; the known ones are {', '.join(_KNOWN)}.")
    shape = _shape_of(tensor, label)
    parameters = _object_at(tensor, "parameters", label)
    if any(key.startswith("shared_memory") for key in parameters):
        raise bad_request(f"{label} lies in shared memory, which this server does not read: send its data.")
    data, is_binary = tensor.get("data"), "binary_data_size" in parameters
    if data is None and not is_binary:
        raise bad_request(f'{label} has no "data".')
    if data is not None and is_binary:
        raise bad_request(f'{label} has "data" and "binary_data_size"; send one of them.')
    if len(tensor) > _MOST_OTHER_KEYS + 4:
        raise bad_request(f'{label} has {len(tensor)} keys; put what the model needs into its "parameters".')
    if is_binary:
        raw = behind.take(parameters["binary_data_size"], label)
        data = elements_in(raw, shape, label) if datatype == "BYTES" else numbers_in(raw, datatype, shape, label)
        rest = {key: value for key, value in parameters.items() if key != "binary_data_size"}
        tensor = {key: value for key, value in tensor.items() if key != "parameters"}
        tensor |= {"parameters": rest} if rest else {}
    if datatype == "BYTES":
        elements = _bytes_elements(data, shape, label)
        return [{**tensor, "shape": [1], "datatype": datatype, "data": element} for element in elements]
    shape, data = _nested_numbers(data, shape, datatype, label)
    return [{**tensor, "shape": shape, "datatype": datatype, "data": data}]


def encode_tensor(value: Any) -> tuple[str, list[int], list[Any]]:
    """Datatype, shape and flat data of a handler's result. A scalar has the shape ``[1]``. NaN and the infinities, not
    known to JSON, become null; half precision, not known to the protocol's JSON, becomes FP32. Numbers among strings
    become strings, and an object stays one, since 0.12 sends it so."""
    import numpy as np

    array = _as_array(value)
    kind = array.dtype.kind
    shape = list(array.shape) or [1]
    values = array.ravel().tolist()
    if kind == "f":
        if not np.isfinite(array).all():
            values = [value if math.isfinite(value) else None for value in values]
        return "FP32" if array.dtype.name == "float16" else _to_datatype(array.dtype), shape, values
    if kind in "biu":
        return _to_datatype(array.dtype), shape, values
    return "BYTES", shape, [plain(element) for element in _texts_among(values)]


def pack_tensor(value: Any) -> tuple[str, list[int], bytes]:
    """The same as bytes: NaN, half precision and bytes stay what they are."""
    array = _as_array(value, keep_bytes=True)
    shape = list(array.shape) or [1]
    if array.dtype.kind in "biuf":
        datatype = "BF16" if _is_bfloat16(value) else _to_datatype(array.dtype)
        return datatype, shape, packed_numbers(array, datatype)
    return "BYTES", shape, packed_elements(_texts_among(array.ravel().tolist()))


def _texts_among(values: list[Any]) -> list[Any]:
    if any(isinstance(element, str) for element in values):
        return [str(element) if isinstance(element, int | float) else element for element in values]
    return values


def _to_dtype(datatype: str) -> np.dtype:
    import numpy as np

    return np.dtype(_NUMPY_NAMES.get(datatype) or {"BYTES": "byte"}[datatype])


def _to_datatype(dtype: np.dtype) -> str:
    return "BYTES" if dtype.kind in "OU" else _DATATYPES[dtype.name]


def _flag(value: Any, key: str, owner: str) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f'{owner} has "{key}" that is {json_kind(value)}; it must be true or false.')
    return value


def _have_keys(results: list[Any], keys: Collection[str]) -> bool:
    return all(isinstance(result, dict) and result.keys() >= set(keys) for result in results)


def _object_at(document: Row, key: str, owner: str) -> dict[str, Any]:
    """An optional object; null is none."""
    found = document.get(key)
    if not isinstance(found, dict | None):
        raise bad_request(f'{owner} has "{key}" that is {json_kind(found)}; it must be an object.')
    return found or {}


def _wanted_outputs(document: dict[str, Any], possible: Collection[str], binary: bool) -> dict[str, bool]:
    """The names of the outputs that are asked for, and whether as bytes; ``binary``: where an output does not say it.
    Those that cannot be are refused before anything is inferred."""
    outputs = document.get("outputs") or []
    if not isinstance(outputs, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in outputs
    ):
        raise bad_request(f'"outputs" must be a list of objects with a "name", not {shown(outputs, 80)}.')
    wanted = {}
    for one in outputs:
        owner = f'Output "{one["name"]:.80}"'
        parameters = _object_at(one, "parameters", owner)
        for key in parameters:
            if key == "classification" or key.startswith("shared_memory"):
                raise bad_request(f"{owner} asks for {key}, which is not there.")
        wanted[one["name"]] = _flag(parameters.get("binary_data", binary), "binary_data", owner)
    if len(wanted) < len(outputs):
        raise bad_request('"outputs" asks for an output more than once.')
    if missing := [name for name in wanted if name not in possible]:
        raise _no_such_outputs(missing, possible)
    return wanted


def _no_such_outputs(missing: Collection[str], there: Collection[str]) -> PredictionException:
    first = ", ".join(f'"{name:.80}"' for name in itertools.islice(missing, 5))
    known = ", ".join(f'"{name:.80}"' for name in itertools.islice(sorted(there), 5))
    return bad_request(f'"outputs" asks for {first}, which there is not; this request can have {known}.')


def _inputs_of(document: dict[str, Any]) -> list[Any]:
    inputs = document.get("inputs")
    if "inputs" not in document:
        raise bad_request(
            f'The body has no "inputs" (it has {keys_of(document)}); expected {{"inputs": [tensor, ...]}}.'
        )
    if not isinstance(inputs, list):
        raise bad_request(f'Expected "inputs" to be a list of tensors, not {json_kind(inputs)}.')
    if not inputs:
        raise bad_request('"inputs" is empty; there is nothing to predict.')
    if len(inputs) > _MOST_INPUTS:
        raise bad_request(f'"inputs" has {len(inputs)} tensors; at most {_MOST_INPUTS} are accepted.')
    return inputs


def _shape_of(tensor: dict[str, Any], label: str) -> list[int]:
    """The list of dimensions. A bare number means one dimension; -1, once, means: as many as there are."""
    given = tensor.get("shape")
    shape = [given] if isinstance(given, int) else given
    if not isinstance(shape, list) or any(type(size) is not int or size < -1 for size in shape) or shape.count(-1) > 1:
        raise bad_request(f'{label}: "shape" must be a list of sizes, not {shown(given, 80)}.')
    if len(shape) > _MOST_DIMENSIONS:
        raise bad_request(f'{label}: "shape" has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} can be.')
    if max(shape, default=0) > _LARGEST_DIMENSION:
        raise bad_request(f'{label}: "shape" has a size above {_LARGEST_DIMENSION}.')
    return shape


def _fitted(shape: list[int], count: int, label: str) -> list[int]:
    """``shape`` with its -1 replaced by what makes it hold ``count`` values; 400 when nothing does."""
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and not known:
        raise bad_request(f"{label}: shape {shape} leaves its -1 open, since it has a 0 as well; send the size itself.")
    if -1 in shape and count % known == 0:
        return [count // known if size == -1 else size for size in shape]
    if -1 in shape or known != count:
        raise bad_request(f'{label}: shape {shape} is for {known} values, but "data" has {count}.')
    return shape


def _bytes_elements(data: Any, shape: list[int], label: str) -> list[Any]:
    elements: list[Any] = []
    pending = [data]
    while pending:  # rather than a recursion, which lists nested deeply enough would end
        entry = pending.pop()
        if isinstance(entry, list):
            pending.extend(reversed(entry))
        else:
            elements.append(entry)
    expect_few_rows(len(elements))
    _fitted(shape, len(elements), label)
    if not elements:
        raise bad_request(f'{label}: "data" is empty.')
    for element in elements:
        if not isinstance(element, str | bytes | bytearray | dict):
            raise bad_request(f"{label}: {json_kind(element)} ({shown(element)}) where BYTES needs strings.")
    return elements


def _nested_numbers(data: Any, shape: list[int], datatype: str, label: str) -> tuple[list[int], Any]:
    """``data`` nested as ``shape`` says, every value as it was sent."""
    import numpy as np

    array = data if isinstance(data, np.ndarray) else _checked_array(data, datatype, label)
    shape = _fitted(shape, array.size, label)
    if list(array.shape) == shape and array is not data:
        return shape, data
    lists = sum(itertools.accumulate(shape[:-1], operator.mul, initial=1))
    if lists > 4 * array.size + 1000:  # dimensions of 1 or 0 announce lists that the client need not have sent
        raise bad_request(
            f"{label}: shape {shape} makes {lists} lists of {array.size} values; send fewer dimensions of 0 or 1."
        )
    if array.size:
        return shape, array.reshape(shape).tolist()
    nested: list[Any] = []  # numpy refuses large dimensions, though a 0 beside them leaves nothing to store
    for size in reversed(shape[: shape.index(0)]):
        nested = [copy.deepcopy(nested) for _ in range(size)]
    return shape, nested


def _checked_array(data: Any, datatype: str, label: str) -> np.ndarray:
    """An array of the very objects in ``data``. Numpy's own choice of a type would turn 1 into 1.0 beside a 0.5, and
    one long text among many numbers into an array of texts of that length."""
    import numpy as np

    array = np.array(data, dtype=object)
    values = array.ravel().tolist()
    types = set(map(type, values))
    if list in types:
        raise bad_request(f'{label}: "data" is ragged, its lists differ in length.')
    if _all_fit(values, types, datatype):
        return array
    for position, value in enumerate(values):
        if not _fits(value, datatype):
            raise bad_request(f'{label}: value {shown(value)} at position {position} of "data" is not {datatype}.')
    return array


def _all_fit(values: list[Any], types: set[type], datatype: str) -> bool:
    """Whether all values are certain to fit ``datatype``. No means: look at them one by one."""
    import numpy as np

    if datatype == "BOOL":
        return types <= {bool}
    if datatype in _LARGEST:
        # A comparison with NaN is false, which is what it should be here.
        return types == {float} and bool((np.abs(np.asarray(values)) <= _LARGEST[datatype]).all())
    lowest, highest = _limits(datatype)
    return types == {int} and lowest <= min(values) and max(values) <= highest


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, int) and value in (0, 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if datatype in _LARGEST:
        return abs(value) <= _LARGEST[datatype]
    lowest, highest = _limits(datatype)
    return value == int(value) and lowest <= value <= highest


def _limits(datatype: str) -> tuple[int, int]:
    bits = int(datatype.lstrip("UINT"))
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _as_array(value: Any, *, keep_bytes: bool = False) -> np.ndarray:
    """An array of numbers that the protocol has, where there are only numbers; else one of Python objects. Dates and
    durations are texts; so are bytes, unless they are kept."""
    import numpy as np

    if isinstance(value, list | tuple):
        value = [_to_array(entry, keep_bytes) for entry in value]
    else:
        value = _to_array(value, keep_bytes)
    if isinstance(value, np.ndarray):
        array = value
    else:
        try:
            array = np.array(value, dtype=object)
            # Numpy's arrays of texts take the longest one's room for each, and cut zero bytes off.
            if not {str, bytes, bytearray} & set(map(type, array.ravel().tolist())):
                array = np.array(value)
        except ValueError:  # parts of different shapes
            array = np.fromiter(value, dtype=object, count=len(value))
    kind = array.dtype.kind
    if kind == "f" and array.dtype.name not in _DATATYPES:  # more than 64 bits
        return array.astype("float64")
    if kind in "mM":
        return array.astype(str).astype(object)
    if kind not in "biufOUS":
        raise PredictionException(f"Unsupported model output data type. V2 has no {array.dtype}.", 503)
    return array


def _to_array(value: Any, keep_bytes: bool) -> Any:
    """A tensor as an array, bytes as text unless they are kept, anything else as it is."""
    if isinstance(value, bytes | bytearray):
        return bytes(value) if keep_bytes else text_of(value)
    return on_the_cpu(value).numpy() if is_tensor(value) else value


def _is_bfloat16(value: Any) -> bool:
    """Of whatever became an array of FP32."""
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(str(getattr(entry, "dtype", "")) == "torch.bfloat16" for entry in values)
