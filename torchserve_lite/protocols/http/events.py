"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html): who gets a streamed answer as
events, and what its pieces become then."""

from __future__ import annotations

import base64
import codecs
import json
import re
from dataclasses import replace

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.http.accept import quality

HEARTBEAT = b": heartbeat\n\n"  # a comment, which keeps proxies and clients from taking the stream for dead

_EVENTS = "text/event-stream"
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")
_BEGINS_AN_EVENT = (b"data:", b"event:", b"id:", b"retry:", b":")
_ENDS_AN_EVENT = (b"\n\n", b"\r\r", b"\n\r\n")
_NO_BUFFERING = "X-Accel-Buffering"  # what nginx, and proxies that follow it, look at


def accepts_events(accept: str) -> bool:
    """Whether a client's Accept names events."""
    return quality(accept, _EVENTS) > 0


class Pieces:
    """How the pieces of a streamed answer are sent: as they are. What has gone wrong cannot be told."""

    heartbeat: float | None = None
    """Seconds after which something has to be sent."""

    def piece(self, data: Buffer) -> Buffer:
        """What is sent for the next piece; nothing when it has to wait for the one that follows."""
        return data

    def rest(self) -> bytes:
        """What is left at the end of a whole answer."""
        return b""

    def failure(self, error: ServingError) -> bytes | None:
        """What tells the client, before a proper end, that the answer broke off; None where nothing can."""
        return None

    @property
    def may_beat(self) -> bool:
        """Whether a heartbeat would stand between two events."""
        return False


class OwnEvents(Pieces):
    """Events that the handler has written itself. They are not changed."""

    def __init__(self, form: ErrorForm, heartbeat: float | None) -> None:
        self.heartbeat = heartbeat
        self._form = form
        self._end = b"\n\n"  # of what has been sent

    def piece(self, data: Buffer) -> Buffer:
        self._end = (self._end + bytes(data[-4:]))[-4:]
        return data

    def failure(self, error: ServingError) -> bytes | None:
        return _failure(error, self._form) if self.may_beat else None

    @property
    def may_beat(self) -> bool:
        return self._end.endswith(_ENDS_AN_EVENT)


class Events(Pieces):
    """An event for each piece. One that is no text is sent as base64, in an event of that name; a character that is cut
    in two by the end of a piece goes with the next one."""

    def __init__(self, form: ErrorForm, heartbeat: float | None) -> None:
        self.heartbeat = heartbeat
        self._form = form
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def piece(self, data: Buffer) -> Buffer:
        try:
            text = self._decoder.decode(bytes(data))
        except UnicodeDecodeError:
            return _base64(self._held() + data)
        return _event(text.encode()) if text else b""

    def rest(self) -> bytes:
        held = self._held()
        return _base64(held) if held else b""

    def failure(self, error: ServingError) -> bytes | None:
        return self.rest() + _failure(error, self._form)

    @property
    def may_beat(self) -> bool:
        return True

    def _held(self) -> bytes:
        """The beginning of a character whose end has not come."""
        held, _ = self._decoder.getstate()
        self._decoder.reset()
        return held


def pieces_of(
    answer: InferenceResponse, form: ErrorForm, heartbeat: float | None, *, wants_events: bool
) -> tuple[InferenceResponse, Pieces]:
    """A streamed answer as it goes out, and how its pieces do. ``form``: in which failures are told."""
    media_type = answer.content_type.partition(";")[0].strip().lower()
    names = {name.lower() for name, _ in answer.headers}
    pieces: Pieces
    if media_type == _EVENTS:
        kind, pieces = answer.content_type, OwnEvents(form, heartbeat)
    elif not wants_events or "content-encoding" in names:
        return answer, Pieces()
    elif _is_an_event(answer.body):  # as TorchServe's handler for vLLM streams, without saying what it is
        kind, pieces = _EVENTS, OwnEvents(form, heartbeat)
    else:
        kind, pieces = _EVENTS, Events(form, heartbeat)
    headers = answer.headers
    if _NO_BUFFERING.lower() not in names:
        headers = (*headers, (_NO_BUFFERING, "no"))
    return replace(answer, content_type=kind, headers=headers), pieces


def _is_an_event(piece: Buffer) -> bool:
    whole = bytes(piece)
    return whole.startswith(_BEGINS_AN_EVENT) and whole.endswith(_ENDS_AN_EVENT)


def _event(data: bytes, name: bytes = b"") -> bytes:
    lines = b"\ndata: ".join(_LINE_BREAK.split(data))
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + lines + b"\n\n"


def _base64(data: bytes) -> bytes:
    return _event(base64.b64encode(data), b"base64")


def _failure(error: ServingError, form: ErrorForm) -> bytes:
    """The triple, and once more as ``error``, where clients of OpenAI's API look for it."""
    body = reply_to(error, form).body
    told = body if "error" in body else {**body, "error": body}
    return _event(json.dumps(told, ensure_ascii=False).encode(errors="replace"), b"error")
