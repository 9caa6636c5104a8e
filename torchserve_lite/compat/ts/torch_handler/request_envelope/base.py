"""Envelopes: how a request's body wraps what the handler should see, and how answers are wrapped for the client.

An envelope instance serves one request: ``unpack`` gives its rows for the handler, ``pack`` makes its answer of their
results. The worker puts the rows of several requests into one call of the handler and hands each envelope its part of
the results. ``handle`` does the same in one process, for code that uses an envelope as TorchServe offers it.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import math
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

from ts.utils.util import PredictionException

Row = dict[str, Any]

_JSON_TEXT = (bytes, bytearray, str)
_CLOUD_EVENT = {"specversion", "id", "source", "type", "data"}
_MOST_ROWS = 500_000
_UNSUPPORTED = "Unsupported model output data type."


class BaseEnvelope:
    """``unpack`` and ``pack`` are what an envelope is. One written for TorchServe, with ``parse_input`` and
    ``format_output`` over a list of requests, works too: it gets lists of one.

    ``alone``: set by ``unpack`` when this request's rows must have a call of the handler for themselves.
    ``answer_begun``: pieces of the answer have gone out before ``pack``, so that it can have no headers any more.
    ``one_document``: the answer is one, of which a handler that streams can send nothing before the end.
    ``input_names``: of its tensors, where it has such.
    """

    alone = False
    input_names: Sequence[str] = ()
    answer_begun = False
    one_document = False
    parse_input: Callable[[list[Row]], Iterable[Any]]
    format_output: Callable[[list[Any]], Sequence[Any]]

    def __init__(self, handle_fn: Callable[[list[Any], Any], Any]) -> None:
        self._entry_point = handle_fn
        self.context: Any = None

    def unpack(self, row: Row, context: Any, index: int) -> list[Any]:
        """The rows of request ``index``; ``PredictionException`` with 400 when the body is not what it should be."""
        self.context = context
        return list(self.parse_input([row]))

    def pack(self, results: list[Any], context: Any, index: int) -> Any:
        """The answer to request ``index``, from the results of the rows that ``unpack`` gave."""
        return self.format_output(results)[0]

    def handle(self, data: list[Row], context: Any) -> list[Any]:
        """Answers every request of ``data``. A describe has no body to unpack: the handler gets it as it is."""
        self.context = context
        if not data or header_is_true(context, 0, "describe"):
            described: list[Any] = self._entry_point(data, context)
            return described
        ids, processors = context.request_ids or {}, context.request_processor or [None] * len(data)
        opened = []
        for index, row in enumerate(data):
            request = OpenedRequest(ids.get(index), processors[index], type(self)(self._entry_point))
            request.unpack(row, context, index)
            opened.append(request)
        answers = {}
        for group in calls_of(opened):
            rows = [row for request in group for row in request.rows]
            with requests_shown(owners_of(group), context):
                results = self._entry_point(rows, context)
            expect_count(results, len(rows), alone=group[0].alone)
            for request, own in results_of(group, results):
                answers[request] = request.envelope.pack(own, context, opened.index(request))
        return [answers[request] for request in opened]

    def before_call(self, context: Any, owners: Sequence[OpenedRequest] = ()) -> None:
        """What to put on the context while the handler has these requests' rows. Its own request is the first."""

    def after_call(self, context: Any) -> None:
        """Undoes ``before_call``."""

    def set_apart(self) -> bool:
        """A call that it shared has failed. True: it should have had one for itself, as its like will have."""
        return False


class OpenedRequest:
    """A request with the rows that its envelope (None: there is none) has made of it.

    ``alone``: its rows belong together (several input tensors of one request), no other request may share the call.
    """

    __slots__ = ("alone", "envelope", "processor", "request_id", "rows")

    def __init__(self, request_id: str | None, processor: Any, envelope: BaseEnvelope | None) -> None:
        self.request_id = request_id
        self.processor = processor
        self.envelope: Any = envelope
        self.rows: list[Any] = []
        self.alone = False

    def unpack(self, row: Row, context: Any, index: int) -> None:
        self.rows = self.envelope.unpack(row, context, index)
        self.alone = bool(getattr(self.envelope, "alone", False))


AnyOpened = TypeVar("AnyOpened", bound=OpenedRequest)


def calls_of(requests: Sequence[AnyOpened]) -> Iterator[list[AnyOpened]]:
    """The calls of the handler that these requests take: one for all that may share it, and one for each other."""
    together = [request for request in requests if not request.alone]
    if together:
        yield together
    yield from ([request] for request in requests if request.alone)


def owners_of(group: Sequence[AnyOpened]) -> list[AnyOpened]:
    """Whose each row is. When there are no rows, the requests: a handler may look at them all the same."""
    return [request for request in group for _ in request.rows] or list(group)


@contextlib.contextmanager
def requests_shown(owners: Sequence[OpenedRequest], context: Any) -> Iterator[None]:
    """While the handler has these rows, the context has an id and a processor for each of them."""
    ids, processors = context.request_ids, context.request_processor
    context.request_ids = {row: request.request_id for row, request in enumerate(owners)}
    context.request_processor = [request.processor for request in owners]
    envelope = owners[0].envelope
    if envelope is not None:
        envelope.before_call(context, owners)
    try:
        yield
    finally:
        if envelope is not None:
            envelope.after_call(context)
        context.request_ids, context.request_processor = ids, processors


def results_of(group: Sequence[AnyOpened], results: list[Any]) -> Iterator[tuple[AnyOpened, list[Any]]]:
    """Each request with the results of its rows; one that is alone may have got fewer."""
    start = 0
    for request in group:
        end = len(results) if request.alone else start + len(request.rows)
        yield request, results[start:end]
        start = end


def expect_count(results: Any, rows: int, *, alone: bool = False) -> None:
    """A handler answers each row. ``alone``: the several inputs of one request may have fewer outputs."""
    if not isinstance(results, list):
        raise PredictionException("Invalid model predict output", 503)
    enough = bool(results) if alone else len(results) == rows
    if not enough or len(results) > rows:
        raise PredictionException(
            f"number of batch response mismatched: the handler returned {len(results)} results for {rows} rows", 503
        )


def expect_few_rows(rows: int) -> None:
    """A row takes a hundred times the memory of the two bytes that a client needs for it."""
    if rows > _MOST_ROWS:
        raise bad_request(f"The request has {rows} rows; at most {_MOST_ROWS} are accepted.")


def shown(value: Any, length: int = 40) -> str:
    """The start of a value in a message, however large or deep it is."""
    try:
        return f"{value!r:.{length}}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def bad_request(message: str) -> PredictionException:
    return PredictionException(message, 400)


def header_is_true(context: Any, index: int, name: str) -> bool:
    """Whether a header that the server itself adds (``explain``, ``describe``) is on."""
    return context.request_processor is not None and context.get_request_header(index, name) == "True"


def payload(row: Row) -> Any:
    """The body of a request: the part named ``data`` or ``body``, or the only part there is."""
    only = next(iter(row.values())) if len(row) == 1 else None
    return row.get("data") or row.get("body") or only


def json_object(row: Row) -> dict[str, Any]:
    """The body as a JSON object, whether it came parsed or as bytes."""
    body = payload(row)
    is_text = isinstance(body, _JSON_TEXT)
    if body is None or (is_text and (not body or body.isspace())):
        raise bad_request("The request has no body; a JSON object is expected.")
    document = parse_json(body) if is_text else body
    if not isinstance(document, dict):
        raise bad_request(f"The body must be a JSON object, not {json_kind(document)}.")
    return document


def unwrap_event(document: dict[str, Any]) -> dict[str, Any]:
    """The ``data`` of a CloudEvent in structured mode; any other document itself."""
    if not document.keys() >= _CLOUD_EVENT:
        return document
    if not isinstance(document["data"], dict):
        raise bad_request(f'The CloudEvent\'s "data" must be a JSON object, not {json_kind(document["data"])}.')
    return document["data"]


def parse_json(text: bytes | bytearray | str) -> Any:
    try:
        if not isinstance(text, str):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        elif text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        return _decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} (position {error.pos})"
        raise bad_request(f"The body is not valid JSON: {error.msg} at {where}.") from error
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not valid JSON: byte {error.start} is not {error.encoding}.") from error
    except RecursionError as error:
        raise bad_request("The body is not valid JSON: it is nested too deeply.") from error
    except ValueError as error:  # a number with more digits than Python converts
        raise bad_request(f"The body is not valid JSON: {error}.") from error


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's parser keeps the last of several values under one key: input that is lost without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        [(name, _)] = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f'the key "{name:.40}" comes twice')
    return made


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON value")


_decode = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_object_of).decode  # json.loads makes one a text


def json_kind(value: Any) -> str:
    """What a JSON value is called, for messages to people who write JSON."""
    names: Sequence[tuple[type | tuple[type, ...], str]] = (
        (bool, "a boolean"),
        (str, "a string"),
        ((int, float), "a number"),
        (list, "an array"),
        (dict, "an object"),
    )
    return "null" if value is None else next((name for kind, name in names if isinstance(value, kind)), "binary data")


def keys_of(document: dict[str, Any]) -> str:
    """The first few keys, for messages: enough to see which protocol somebody had in mind."""
    keys = [f'"{key:.40}"' for key in itertools.islice(document, 5)]
    return ", ".join(keys + ["..."] * (len(document) > 5)) or "no keys"


def plain(value: Any, *, keep_nan: bool = False) -> Any:
    """``value`` with what JSON cannot carry replaced, or TypeError when it has something that nothing stands for.

    Tensors, arrays and sets become lists; dates, times, UUIDs, paths and decimal numbers text; durations seconds; an
    Enum its value; a dataclass an object; bytes text. NaN and the infinities become null, unless ``keep_nan``.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, keep_nan=keep_nan)
    if isinstance(value, float):
        return value if keep_nan or math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        entries = {}
        for key, entry in value.items():
            name = key if isinstance(key, float) else plain(key)
            if name is not None and not isinstance(name, str | int | float):
                kind = type(key).__name__
                raise TypeError(f"{_UNSUPPORTED} A key of JSON cannot be a {kind}.")
            entries[name] = plain(entry, keep_nan=keep_nan)
        return entries
    if isinstance(value, bytes | bytearray | memoryview):
        return text_of(value)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):  # numpy's dates, which tolist makes numbers
        return value.astype(str).tolist()
    if hasattr(value, "tolist"):
        return plain(listed(value), keep_nan=keep_nan)
    if isinstance(value, Sequence):
        return [plain(entry, keep_nan=keep_nan) for entry in value]
    if isinstance(value, Set):
        members = [plain(entry, keep_nan=keep_nan) for entry in value]
        try:
            return sorted(members)  # a set has no order, and two answers to one question should not differ
        except TypeError:
            return members
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name), keep_nan=keep_nan) for field in fields}
    raise TypeError(f"{_UNSUPPORTED} JSON has no {type(value).__name__}.")


def listed(value: Any) -> Any:
    """``tolist`` of a tensor or an array, also of those that torch and numpy have no plain numbers for."""
    if is_tensor(value):
        value = on_the_cpu(value)
    elif getattr(getattr(value, "dtype", None), "name", "") in ("longdouble", "float96", "float128"):
        value = value.astype("float64")
    return value.tolist()


def is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "dtype")


def on_the_cpu(tensor: Any) -> Any:
    """The tensor in memory, in a layout and of a type that numpy has: no views that negate, sparse as dense, quantized
    and small floating-point numbers as FP32."""
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and (tensor.dtype.itemsize == 1 or str(tensor.dtype) == "torch.bfloat16"):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg()


class unsendable_told:
    """Whatever a result does when it is looked at, what is wrong is the handler's, and the client is told so.

    A class, since ``contextlib.contextmanager`` would cost each answer a microsecond.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError)):
            text = str(error).removeprefix(_UNSUPPORTED).strip()
            raise PredictionException(f"{_UNSUPPORTED} {text}", 500) from error


def text_of(content: bytes | bytearray | memoryview) -> str:
    """UTF-8 where it is that, else base64: binary content has to arrive whole."""
    try:
        return bytes(content).decode()
    except UnicodeDecodeError:
        return base64.b64encode(content).decode("ascii")
