"""What a client asks and what it gets, independent of the protocol that carried it.

Nobody changes a field of these. They are not declared frozen, because that triples what it costs to make one, and three
are made for each request.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from torchserve_lite.core.streams import AnswerStream, Buffer

Headers = tuple[tuple[str, str], ...]
"""Header names in the client's own spelling with their values, in wire order; names may repeat."""


class Verb(enum.StrEnum):
    """What is asked of a model."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    DESCRIBE = "describe"


class Envelope(enum.StrEnum):
    """The wrapper a body is in; the worker unwraps it (names as TorchServe's ``service_envelope``)."""

    NONE = ""
    BODY = "body"
    JSON = "json"
    KSERVE = "kserve"
    KSERVE_V2 = "kservev2"


@dataclass(slots=True)
class Part:
    """A named piece of a request: opaque bytes and the content type (without parameters) they came with."""

    name: str
    data: Buffer
    content_type: str = ""


@dataclass(slots=True)
class InferenceRequest:
    """One request for one model, decoded as far as the front process decodes anything.

    ``headers`` are what the handler may see; ``encoded_headers``, where there are any, stand for them: a connection on
    which one head comes again and again has them encoded once (``ipc.messages.encoded_headers``). ``id`` is ours,
    unique and returned as ``x-request-id``. ``in_pieces``: the client wants what a handler streams as it comes, also
    where the answer would be one document. ``part_of``: the id of the request that this one was made for, such as one
    to a workflow. ``profile``: the file that a profile of its run goes to, empty for none.
    """

    id: str
    model: str
    version: str | None
    verb: Verb
    parts: tuple[Part, ...]
    headers: Headers = ()
    envelope: Envelope = Envelope.NONE
    timeout: float | None = None  # seconds the client is ready to wait, from arrival
    trace_context: str = ""
    encoded_headers: bytes = field(default=b"", compare=False, repr=False)
    in_pieces: bool = False
    part_of: str = ""
    profile: str = ""


@dataclass(slots=True)
class InferenceResponse:
    """A handler's answer to one request. ``stream`` gives the pieces that follow ``body`` when the handler streams.
    ``timing``: where its time went, as ``Server-Timing`` has it; the data plane sets it when it hands the answer on."""

    body: Buffer
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Headers = ()
    stream: AnswerStream | None = None
    timing: bytes = field(default=b"", compare=False, repr=False)
