"""The pieces of an HTTP exchange that all protocols share: reading a request, writing an answer."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Iterable

from aiohttp import web

from torchserve_lite.core.requests import Envelope, Headers, InferenceRequest, InferenceResponse, Part, Verb
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import BadRequest, MethodNotAllowed, ServingError
from torchserve_lite.protocols.http.whole_response import WholeResponse, fits, one_line

log = logging.getLogger(__name__)

JSON = "application/json"
REQUEST_ID = web.RequestKey("x-request-id", str)
_TIMEOUT = "X-Request-Timeout-Ms"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"}
)
INFER_METHODS = ("POST", "PUT", "GET")
READ = ("GET", "HEAD")
COMPLETE: web.AppKey[Callable[[web.Request, web.StreamResponse], None]] = web.AppKey("complete")
"""Puts on a response what every response carries; ``send`` needs it where the head goes out before the end."""


_random = random.Random(os.urandom(32))  # ids must differ, not be secret: a system call for each would cost more


def new_request_id() -> str:
    """A random UUID (version 4)."""
    digits = f"{_random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def wire_headers(request: web.Request) -> Headers:
    """All headers in the client's own spelling."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers])


def media_type(request: web.Request) -> str:
    """The content type without its parameters, as the client wrote it."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip()


def check_method(request: web.Request) -> None:
    """A crawler's GET without a body, or a HEAD, must not run a model."""
    method = request.method
    if method in ("POST", "PUT") or (method == "GET" and (request.can_read_body or request.query_string)):
        return
    raise MethodNotAllowed(INFER_METHODS)


def make_request(
    request: web.Request,
    *,
    model: str,
    version: str | None = None,
    verb: Verb = Verb.PREDICT,
    parts: Iterable[Part],
    envelope: Envelope = Envelope.NONE,
    more_headers: Headers = (),
    tell_verb: bool = True,
) -> InferenceRequest:
    """An ``InferenceRequest`` with what every HTTP protocol takes from a request in the same way.

    ``tell_verb``: the handler sees it as the header ``explain``, as on all but TorchServe's oldest routes.
    """
    told: Headers = (("explain", str(verb is Verb.EXPLAIN)),) if tell_verb else ()
    return InferenceRequest(
        request[REQUEST_ID],
        model,
        version,
        verb,
        tuple(parts),
        (*wire_headers(request), *told, *more_headers),
        envelope,
        _timeout(request),
        request.headers.get("traceparent", ""),
    )


def _timeout(request: web.Request) -> float | None:
    text = request.headers.get(_TIMEOUT)
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = -1
    if not 0 < milliseconds < float("inf"):
        raise BadRequest(f"{_TIMEOUT} is {text!r}; it must be a number of milliseconds above 0.")
    return milliseconds / 1000


async def send(request: web.Request, answer: InferenceResponse) -> web.StreamResponse:
    """The handler's answer: at once, or in chunks when the handler streams."""
    if fits(request, answer):
        return WholeResponse(answer)
    headers, reason = _own_headers(answer), one_line(answer.reason) or None
    if answer.stream is None:
        return web.Response(body=answer.body, status=answer.status, reason=reason, headers=headers)
    return await _send_chunks(
        request, answer.body, answer.stream, web.StreamResponse(status=answer.status, reason=reason, headers=headers)
    )


async def _send_chunks(
    request: web.Request, first: Buffer, stream: AnswerStream, response: web.StreamResponse
) -> web.StreamResponse:
    """A failure after the first chunk can only be told by ending the body without its end mark."""
    response.enable_chunked_encoding()
    request.app[COMPLETE](request, response)
    try:
        await response.prepare(request)
        if first:
            await response.write(first)
        async with stream as pieces:
            async for piece in pieces:
                await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        log.info("The reader of the streamed answer to %s has gone", request[REQUEST_ID])
    except ServingError as error:
        log.error("The streamed answer to %s broke off: %s", request[REQUEST_ID], error)
        if request.transport is not None:
            request.transport.abort()
    return response


def _own_headers(answer: InferenceResponse) -> dict[str, str]:
    """The handler's, without those that belong to the connection and those that are no headers at all."""
    headers = {
        name: one_line(value)
        for name, value in answer.headers
        if _NAME.fullmatch(name) and name.lower() not in _OF_THE_CONNECTION
    }
    if answer.content_type and answer.status != 204:
        headers["Content-Type"] = one_line(answer.content_type)
    return headers
