"""What parent and child say to one another. Plain data of bytes, str and numbers, encoded as msgpack.

Deadlines are *remaining* seconds, never clock readings: another process (or machine) has its own clock.

A message is a frame: the msgpack is its header, and payloads that are large are buffers beside it, for which the
message holds their number in the frame. They are neither copied into the msgpack nor out of it. Those that lie in a
slab (``ipc/slabs.py``) stay there, and the message tells where.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from torchserve_lite.core.metrics import MODEL_METRICS, MetricDefinition
from torchserve_lite.core.models import ModelSpec, SequenceHeaders
from torchserve_lite.core.requests import Headers
from torchserve_lite.core.streams import Buffer

_LARGE = 16 * 1024  # bytes of a payload that is worth a buffer of its own

if TYPE_CHECKING:
    Payload = Buffer | int
    ReceivedPayload = Buffer | int
    CallHeaders = Headers | msgspec.Raw
else:
    Payload = bytes | int  # what may be in the msgpack, which cannot tell one kind of bytes from another
    ReceivedPayload = bytearray | int  # decoded into the very memory that the handler gets
    CallHeaders = msgspec.Raw  # what a worker receives, and leaves as it is until a handler asks


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Parent -> child, once: become the worker of this model. The spec's ``model_config`` is as ``to_message`` made
    it."""

    spec: ModelSpec
    model_dir: str
    gpu_id: int | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    ipex_enable: bool = False
    ipex_gpu_enable: bool = False
    v2_output_names: str = "predict"
    max_response_size: int = 6553500
    threads: int = 0  # torch's intra-op threads; 0 leaves torch's own choice
    python_path: tuple[str, ...] = ()  # where the handler's imports look first; the model's own folder is among them
    sequence_headers: SequenceHeaders = SequenceHeaders()
    hidden_environment: str = ""  # regular expression of names the handler must not see
    metrics: tuple[MetricDefinition, ...] = MODEL_METRICS  # those that the handler finds in its cache
    whole_tracebacks: bool = False  # a failure's, in the log: every frame, the libraries' own too


class SentPart(msgspec.Struct, array_like=True, gc=False):
    """A ``Part`` on the link. ``data`` is a number only on the way; ``decode_to_worker`` gives the bytes, in a
    bytearray that nobody else has."""

    name: str
    data: ReceivedPayload
    content_type: str = ""


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request of a batch, as the worker needs it. ``remaining``: seconds until its deadline, if it has one.

    ``headers``: pairs, or what ``encoded_headers`` made of them. A worker receives the latter and ``header_pairs``
    gives it the pairs: hardly any handler looks at its headers, so nothing is made of them before one does.
    ``in_pieces``: what a handler streams is wanted as it comes, also where the envelope's answer is one document.
    ``profile``: the file for a profile of the run, in which it is alone; empty for none.
    """

    id: str
    verb: str
    parts: tuple[SentPart, ...]
    headers: CallHeaders
    envelope: str = ""
    remaining: float | None = None
    trace_context: str = ""
    in_pieces: bool = False
    profile: str = ""


class InSlab(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where in the slabs' file a part of a call lies, whose ``data`` is empty on the way. ``room``: bytes from
    ``begin`` on that the answer may take."""

    call: int
    part: int
    begin: int
    length: int
    room: int


class Predict(msgspec.Struct, frozen=True, tag=True):
    """Parent -> child: run these together. ``threads``: intra-op threads the worker may use from now on."""

    batch: int
    calls: tuple[Call, ...]
    threads: int = 0
    in_slabs: tuple[InSlab, ...] = ()


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Parent -> child: nobody waits for call ``index`` of ``batch`` any more."""

    batch: int
    index: int


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Parent -> child: whoever reads the answer to call ``index`` of ``batch`` is behind, and the handler should wait
    before it makes the next piece; not ``on``: it may go on. For workers that run other calls meanwhile: one that runs
    nothing else is made to wait by not reading what it sends."""

    batch: int
    index: int
    on: bool


class Metric(msgspec.Struct, frozen=True, array_like=True):
    """One update of a handler's own metric; ``kind`` is counter, gauge or histogram."""

    name: str
    kind: str
    unit: str
    value: float
    labels: tuple[tuple[str, str], ...]
    request_ids: str = ""


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: the handler is initialised. ``metrics``: what it has counted meanwhile."""

    seconds: float
    metrics: tuple[Metric, ...] = ()


class LoadFailure(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: the handler could not be loaded. ``cause`` is one line, ``traceback`` the handler's frames."""

    cause: str
    traceback: str
    out_of_memory: bool = False


class FailureKind(enum.StrEnum):
    """Why a call has no answer; the ``body`` of its reply then is the message for the client."""

    REFUSED = "refused"  # an envelope or our decoding refused it, before the handler saw it
    HANDLER = "handler"  # the handler raised something, or returned what cannot be sent
    CODE = "code"  # the handler raised PredictionException; its code is the reply's ``status``
    MEMORY = "memory"
    DEADLINE = "deadline"
    TOO_LARGE = "too_large"


class Reply(msgspec.Struct, array_like=True, gc=False):
    """An answer, or a piece of one. ``failure``: a FailureKind, empty when it is none."""

    body: Payload
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Headers = ()
    failure: str = ""


class Answer(msgspec.Struct, array_like=True, gc=False):
    """To call ``index`` of a batch. Not the ``last``: a piece, and more follow."""

    index: int
    reply: Reply
    last: bool = True


class BatchDone(msgspec.Struct, frozen=True, array_like=True):
    """Every call of the batch has had its last answer. ``stages``: those that the handler marks, with their seconds and
    with when each began, counted as ``handler_seconds`` are."""

    handler_seconds: float = 0.0
    metrics: tuple[Metric, ...] = ()
    stages: tuple[tuple[str, float, float], ...] = ()


class Answers(msgspec.Struct, tag=True):
    """Child -> parent: answers to calls of a batch, as they come; with the last of them ``done``. ``in_slabs``: the
    calls of which the answer lies where their first part lay, with its length; in ``answers`` it is empty."""

    batch: int
    answers: tuple[Answer, ...]
    done: BatchDone | None = None
    in_slabs: tuple[tuple[int, int], ...] = ()


ToWorker = Load | Predict | Cancel | Hold
FromWorker = Loaded | LoadFailure | Answers

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)
_headers = msgspec.msgpack.Decoder(Headers)


def encoded_headers(headers: Headers) -> bytes:
    """A request's headers as they go to a worker. For requests with the same headers they are made once."""
    return _encoder.encode(headers)


def header_pairs(call: Call) -> Headers:
    """The call's headers, also of one that has not been sent yet."""
    headers = call.headers
    return _headers.decode(headers) if isinstance(headers, msgspec.Raw) else headers


def encode(message: ToWorker | FromWorker) -> list[Buffer]:
    """The pieces of a frame. The message is used up: numbers stand where its large payloads were."""
    buffers: list[Buffer] = []
    if isinstance(message, Predict):
        for call in message.calls:
            for part in call.parts:
                data = part.data
                assert not isinstance(data, int)
                if len(data) > _LARGE:
                    buffers.append(data)
                    part.data = len(buffers)
    elif isinstance(message, Answers):
        for answer in message.answers:
            body = answer.reply.body
            assert not isinstance(body, int)
            if len(body) > _LARGE:
                buffers.append(body)
                answer.reply.body = len(buffers)
    return [_encoder.encode(message), *buffers]


def decode_to_worker(frame: Sequence[bytearray]) -> ToWorker:
    """DecodeError when it is no message to a worker."""
    message: ToWorker = _decoded(_to_worker, frame)
    if isinstance(message, Predict):
        for call in message.calls:
            for part in call.parts:
                if isinstance(part.data, int):
                    part.data = _buffer(part.data, frame)
    return message


def decode_from_worker(frame: Sequence[bytearray]) -> FromWorker:
    """DecodeError when it is no message from a worker."""
    message: FromWorker = _decoded(_from_worker, frame)
    if isinstance(message, Answers):
        for answer in message.answers:
            if isinstance(answer.reply.body, int):
                answer.reply.body = _buffer(answer.reply.body, frame)
    return message


def _decoded(decoder: msgspec.msgpack.Decoder[Any], frame: Sequence[bytearray]) -> Any:
    try:
        return decoder.decode(frame[0])
    except (UnicodeDecodeError, RecursionError) as error:  # which msgspec does not make a DecodeError
        raise msgspec.DecodeError(str(error)) from error


def _buffer(number: int, frame: Sequence[bytearray]) -> bytearray:
    if not 0 < number < len(frame):
        raise msgspec.ValidationError(f"buffer {number} is named in a frame of {len(frame) - 1}")
    return frame[number]
