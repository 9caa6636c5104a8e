"""The one exit of HTTP: an object for each listener that sends whatever a route answers."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import cast

from aiohttp import web
from multidict import CIMultiDict

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BodyTooLarge, BodyTooSlow, MalformedRequest, ServingError
from torchserve_lite.ipc.log_lines import RequestIds
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http import raw_response
from torchserve_lite.protocols.http.access_log import AccessLog, request_line
from torchserve_lite.protocols.http.answers import JSON, common_headers, new_request_id
from torchserve_lite.protocols.http.bodies import awaits_continue, check_expectation
from torchserve_lite.protocols.http.connections import AiohttpConnection, Client, Clients
from torchserve_lite.protocols.http.events import Pieces, accepts_events, pieces_of
from torchserve_lite.protocols.http.heads import check_head
from torchserve_lite.protocols.http.raw_response import Heads, RawResponse, one_line
from torchserve_lite.protocols.http.requests import REQUEST_ID, header
from torchserve_lite.protocols.http.routing import Handler
from torchserve_lite.protocols.http.streams import in_chunks, stream, until_closed
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import RequestWatch

log = logging.getLogger(__name__)

_UNREAD = (BodyTooLarge, BodyTooSlow, MalformedRequest)  # the rest of such a request would be taken for the next one


class Exchange:
    """One for each listener, and for both ways into it: whatever a route answers, or raises, goes out with the headers,
    the figures and the log line that all answers have in common."""

    def __init__(
        self,
        config: HttpConfig,
        health: Health,
        metrics: ServerMetrics,
        access_log: AccessLog,
        clients: Clients,
        watch: RequestWatch | None = None,
    ) -> None:
        """``watch`` is told which requests are over."""
        self.in_progress = 0  # requests whose answer has not been written yet
        self.health = health
        self._metrics = metrics
        self._access_log = access_log
        self._clients = clients
        self._watch = watch or RequestWatch()
        self.heads = Heads(common_headers(config))
        self._largest_body = config.max_request_size
        self._heartbeat = config.sse_heartbeat or None

    def begin(self, client: Client) -> None:
        """A request's head has been read."""
        self.in_progress += 1
        client.asked = True
        self._clients.busy(client)

    def end(self, client: Client) -> None:
        """Its answer has been written, or nobody is there to get one."""
        self.in_progress -= 1
        self._clients.idle(client)

    def record(self, client: Client, request_id: str, asked: str, status: int, seconds: float) -> None:
        """What all answers leave behind. ``asked``: the line that ``request_line`` makes of method and target."""
        self._metrics.count_response(status)
        self._access_log.add(client.peer, asked, status, seconds, request_id)
        if self._watch.open:
            self._watch.ended(request_id, asked, client.peer, status, seconds)

    def left(self, client: Client, request_id: str, asked: str, seconds: float) -> None:
        """Instead of ``record``, when nobody is there to get the answer."""
        if self._watch.open:
            self._watch.ended(request_id, asked, client.peer, None, seconds)

    def answer_to(
        self, outcome: InferenceResponse | Exception, form: ErrorForm, asked: str, request_id: str
    ) -> InferenceResponse:
        """What the client gets for a route's outcome."""
        if isinstance(outcome, InferenceResponse):
            if 200 <= outcome.status <= 599:
                return outcome
            if outcome.stream is not None:
                outcome.stream.close()
            outcome = ServingError(f"The handler set the status {outcome.status}; an answer has 200 to 599.")
        elif not isinstance(outcome, ServingError):
            about = {"request_ids": RequestIds.of([request_id])}
            log.error("%s failed unexpectedly (request %s)", asked, request_id, exc_info=outcome, extra=about)
        reply = reply_to(outcome, form)
        return InferenceResponse(reply.json, reply.status, content_type=JSON, headers=reply.headers)

    def streamed(
        self, answer: InferenceResponse, form: ErrorForm, *, wants_events: bool
    ) -> tuple[InferenceResponse, Pieces]:
        """A streamed answer as this client gets it, and how its pieces are sent."""
        return pieces_of(answer, form, self._heartbeat, wants_events=wants_events)

    async def answer(self, request: web.Request, handler: Handler, form: ErrorForm) -> web.StreamResponse:
        """A request that aiohttp has read, from the moment its head is there until its answer has been written."""
        response: web.StreamResponse
        begun = perf_counter()
        request[REQUEST_ID] = new_request_id()
        asked = request_line(request.method, request.raw_path)
        outcome: InferenceResponse | Exception
        client = cast(AiohttpConnection, request.protocol).client
        self.begin(client)
        try:
            try:
                check_head(request)
                check_expectation(request)
                if (request.content_length or 0) > self._largest_body:  # also where no route would read it
                    raise BodyTooLarge(self._largest_body)
                outcome = await handler(request)
            except Exception as error:
                outcome = error
            answer = self.answer_to(outcome, form, asked, request[REQUEST_ID])
            try:
                response = await self._send(request, client, answer, form, close=isinstance(outcome, _UNREAD))
            except ConnectionError:  # the client has gone, and nobody else has to hear of it
                response = RawResponse(answer.status, keep_alive=False)
            finally:
                if answer.stream is not None:  # never begun, or left in the middle: its worker is free
                    answer.stream.close()
        except asyncio.CancelledError:
            self.left(client, request[REQUEST_ID], asked, perf_counter() - begun)
            raise
        finally:
            self.end(client)
        self.record(client, request[REQUEST_ID], asked, response.status, perf_counter() - begun)
        return response

    async def _send(
        self, request: web.Request, client: Client, answer: InferenceResponse, form: ErrorForm, *, close: bool
    ) -> web.StreamResponse:
        close = close or self.health.stopping or awaits_continue(request) or request.content.exception() is not None
        status = answer.status
        pieces: Pieces | None = None
        if answer.stream is not None and status not in raw_response.WITHOUT_A_BODY:
            answer, pieces = self.streamed(answer, form, wants_events=accepts_events(header(request, "Accept")))
        if raw_response.fits(request):
            keep_alive = request.keep_alive and not close
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone")
            head = self.heads.head(answer, request[REQUEST_ID], close=not keep_alive)
            if pieces is None:
                body = b"" if status in raw_response.WITHOUT_A_BODY else answer.body
                client.written += len(body)
                request.transport.writelines((head, body))
                await request.writer.drain()
            else:
                request.transport.write(head)
                request.writer.output_size = len(head)  # what aiohttp looks at when it wonders whether to say more
                write = in_chunks(client, request.transport, request.writer.drain)
                await stream(client, write, answer, pieces, request[REQUEST_ID])
            return RawResponse(status, keep_alive)
        own = self.heads.own_headers(answer)
        headers = [*own, *self.heads.common_beside(own), ("x-request-id", request[REQUEST_ID])]
        if answer.timing:
            headers.append(("Server-Timing", answer.timing.decode()))
        reason, fields = one_line(answer.reason) or None, CIMultiDict(headers)
        if pieces is None:
            response: web.StreamResponse = web.Response(body=answer.body, status=status, reason=reason, headers=fields)
        else:  # a client of HTTP/1.0 reads until the connection is closed
            response = web.StreamResponse(status=status, reason=reason, headers=fields)
        if close or pieces is not None:
            response.force_close()
        await response.prepare(request)
        if pieces is not None:
            await stream(client, until_closed(client, response.write), answer, pieces, request[REQUEST_ID])
        else:
            client.written += len(answer.body)
        await response.write_eof()
        return response
