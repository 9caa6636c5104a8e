"""The one exit of HTTP: an object for each listener that sends whatever a route answers."""

from __future__ import annotations

import logging
import re
from time import perf_counter
from typing import cast

from aiohttp import web
from multidict import CIMultiDict

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BodyTooLarge, BodyTooSlow, MalformedRequest, ServingError
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http import raw_response
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.answers import JSON, common_headers, new_request_id
from torchserve_lite.protocols.http.bodies import awaits_continue, check_expectation
from torchserve_lite.protocols.http.connections import Connection
from torchserve_lite.protocols.http.heads import check_head
from torchserve_lite.protocols.http.raw_response import RawResponse, one_line
from torchserve_lite.protocols.http.requests import REQUEST_ID
from torchserve_lite.protocols.http.routing import Handler
from torchserve_lite.protocols.http.streams import stream
from torchserve_lite.telemetry.catalogue import ServerMetrics

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"}
)
_UNREAD = (BodyTooLarge, BodyTooSlow, MalformedRequest)  # the rest of such a request would be taken for the next one


class Exchange:
    """One for each listener: whatever a route answers, or raises, goes out here, with the headers, the figures and the
    log line that all answers have in common."""

    def __init__(self, config: HttpConfig, health: Health, metrics: ServerMetrics, access_log: AccessLog) -> None:
        self.in_progress = 0  # requests whose answer has not been written yet
        self._health = health
        self._metrics = metrics
        self._access_log = access_log
        self._common = common_headers(config)
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
        if answer.stream is not None and status not in raw_response.WITHOUT_A_BODY:
            response = web.StreamResponse(status=status, reason=reason, headers=fields)
            if close:
                response.force_close()
            await stream(request, response, answer.body, answer.stream)
            return response
        response = web.Response(body=answer.body, status=status, reason=reason, headers=fields)
        if close:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response

    def _own_headers(self, answer: InferenceResponse) -> list[tuple[str, str]]:
        """The answer's, without those that are ours or the connection's, and those that are no headers at all."""
        headers = [
            (name, one_line(value))
            for name, value in answer.headers
            if _NAME.fullmatch(name) and name.lower() not in self._not_of_the_handler
        ]
        if answer.content_type and answer.status not in raw_response.WITHOUT_A_BODY:
            headers = [pair for pair in headers if pair[0].lower() != "content-type"]
            headers.append(("Content-Type", one_line(answer.content_type)))
        return headers
