"""The one exit of HTTP: an object for each listener that sends whatever a route answers."""

from __future__ import annotations

import logging
import os
import random
import re
from http import HTTPStatus
from time import perf_counter
from typing import cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import BadRequest, BodyTooLarge, BodyTooSlow, MalformedRequest, RouteNotFound, ServingError
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http import raw_response
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.answers import JSON
from torchserve_lite.protocols.http.bodies import awaits_continue, check_expectation
from torchserve_lite.protocols.http.connections import Connection
from torchserve_lite.protocols.http.raw_response import RawResponse, one_line
from torchserve_lite.protocols.http.requests import REQUEST_ID, check_head
from torchserve_lite.protocols.http.routing import Handler
from torchserve_lite.telemetry.catalogue import ServerMetrics

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"}
)
_WITHOUT_A_BODY = (204, 304)
_UNREAD = (BodyTooLarge, BodyTooSlow, MalformedRequest)  # the rest of such a request would be taken for the next one
_COMMON = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    "Server": "torchserve-lite",
}


_random = random.Random(os.urandom(32))  # ids must differ, not be secret: a system call for each would cost more


def new_request_id() -> str:
    """A random UUID (version 4)."""
    digits = f"{_random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Exchange:
    """One for each listener: whatever a route answers, or raises, goes out here, with the headers, the figures and the
    log line that all answers have in common."""

    def __init__(self, config: HttpConfig, health: Health, metrics: ServerMetrics, access_log: AccessLog) -> None:
        self.in_progress = 0  # requests whose answer has not been written yet
        self._health = health
        self._metrics = metrics
        self._access_log = access_log
        self._common = {**_COMMON, **config.cors}
        self._common_lines = "".join(f"{name}: {value}\r\n" for name, value in self._common.items())
        self._not_of_the_handler = _OF_THE_CONNECTION | {"x-request-id", *(name.lower() for name in self._common)}

    async def answer(self, request: web.Request, handler: Handler, form: ErrorForm) -> web.StreamResponse:
        """One request, from the moment its head has been read until its answer has been written."""
        response: web.StreamResponse
        begun = perf_counter()
        request[REQUEST_ID] = new_request_id()
        self.in_progress += 1
        close = False
        connection = cast(Connection, request.protocol)
        connection.begin_request()
        try:
            try:
                check_head(request)
                check_expectation(request)
                answer = await handler(request)
                if not 200 <= answer.status <= 599:
                    raise ServingError(f"The handler set the status {answer.status}; an answer has 200 to 599.")
            except Exception as error:
                answer = self._refusal(request, error, form)
                close = isinstance(error, _UNREAD)
            try:
                response = await self._send(request, answer, close=close)
            except ConnectionError:  # the client has gone, and nobody else has to hear of it
                response = RawResponse(answer.status, keep_alive=False)
            finally:
                if answer.stream is not None:  # never begun, or left in the middle: its worker is free
                    answer.stream.close()
        finally:
            self.in_progress -= 1
            connection.end_request()
        self._metrics.count_response(response.status)
        self._access_log.add(request, response.status, perf_counter() - begun)
        return response

    def refuse(
        self, request: web.BaseRequest, status: int, error: BaseException | None, message: str
    ) -> web.StreamResponse:
        """The answer to what did not come to a route: no HTTP, a target without a path, a failure of aiohttp."""
        headers = CIMultiDict({**self._common, "Content-Type": JSON, "x-request-id": new_request_id()})
        if status == 404 and request.method == "OPTIONS":
            self._metrics.count_response(200)
            return web.Response(headers=headers)
        if status == 404:
            reply = reply_to(RouteNotFound())
        elif status == 400:
            first_line = one_line(message.partition("\n")[0]).rstrip(":. ") or "it is malformed"
            log.info("What %s sent is no HTTP request: %s", request.remote, first_line)
            reply = reply_to(BadRequest(f"This is no HTTP request that can be read: {first_line}."))
        else:
            log.error("A request from %s failed unexpectedly", request.remote, exc_info=error)
            reply = reply_to(RuntimeError())
        self._metrics.count_response(reply.status)
        return web.Response(body=reply.json, status=reply.status, headers=headers)

    def last_words(self, error: ServingError) -> bytes:
        """The same to a client that has sent no request yet, and is not served."""
        reply = reply_to(error)
        self._metrics.count_response(reply.status)
        fields = {"Content-Type": JSON, "Content-Length": str(len(reply.json)), "x-request-id": new_request_id()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*fields.items(), *reply.headers))
        head = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{lines}Connection: close\r\n"
        return f"{head}{self._common_lines}\r\n".encode() + reply.json

    def _refusal(self, request: web.Request, error: Exception, form: ErrorForm) -> InferenceResponse:
        if not isinstance(error, ServingError):
            log.error("%s %s failed unexpectedly", request.method, request.path, exc_info=error)
        reply = reply_to(error, form)
        return InferenceResponse(reply.json, reply.status, content_type=JSON, headers=reply.headers)

    async def _send(self, request: web.Request, answer: InferenceResponse, *, close: bool) -> web.StreamResponse:
        close = close or self._health.stopping or awaits_continue(request) or request.content.exception() is not None
        headers = self._own_headers(answer)
        connection = cast(Connection, request.protocol)
        connection.written += len(answer.body)
        if raw_response.fits(request, answer):
            common = f"{self._common_lines}x-request-id: {request[REQUEST_ID]}\r\n"
            return await raw_response.send(request, answer, headers, common, close=close)
        headers += [*self._common.items(), ("x-request-id", request[REQUEST_ID])]
        status, reason, fields = answer.status, one_line(answer.reason) or None, CIMultiDict(headers)
        if answer.stream is not None and status not in _WITHOUT_A_BODY:
            response = web.StreamResponse(status=status, reason=reason, headers=fields)
            if close:
                response.force_close()
            await self._stream(request, response, answer.body, answer.stream)
            return response
        response = web.Response(body=answer.body, status=status, reason=reason, headers=fields)
        if close:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, first: Buffer, stream: AnswerStream
    ) -> None:
        """A failure after the first piece can only be told by ending the body without its end mark."""
        connection = cast(Connection, request.protocol)
        if request.version == HttpVersion11:
            response.enable_chunked_encoding()  # a client of HTTP/1.0 reads until the connection is closed
        try:
            await response.prepare(request)
            if first:
                await response.write(first)
            async with stream as pieces:
                async for piece in pieces:
                    if piece:
                        connection.written += len(piece)
                        await response.write(piece)
            await response.write_eof()
        except ConnectionError:
            log.info("The reader of the streamed answer to %s has gone", request[REQUEST_ID])
        except ServingError as error:
            log.error("The streamed answer to %s broke off: %s", request[REQUEST_ID], error)
            if request.transport is not None:
                request.transport.abort()

    def _own_headers(self, answer: InferenceResponse) -> list[tuple[str, str]]:
        """The answer's, without those that are ours or the connection's, and those that are no headers at all."""
        headers = [
            (name, one_line(value))
            for name, value in answer.headers
            if _NAME.fullmatch(name) and name.lower() not in self._not_of_the_handler
        ]
        if answer.content_type and answer.status not in _WITHOUT_A_BODY:
            headers = [pair for pair in headers if pair[0].lower() != "content-type"]
            headers.append(("Content-Type", one_line(answer.content_type)))
        return headers
