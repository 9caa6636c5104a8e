"""Answers to what did not come to a route."""

from __future__ import annotations

import logging
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import Headers
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest, RouteNotFound, ServingError
from torchserve_lite.protocols.errors import reply_to
from torchserve_lite.protocols.http.answers import JSON, common_headers, json_answer, new_request_id
from torchserve_lite.protocols.http.openapi import ApiDescription
from torchserve_lite.protocols.http.raw_response import one_line
from torchserve_lite.telemetry.catalogue import ServerMetrics

log = logging.getLogger(__name__)


class Refusals:
    """One for each listener. They are counted as all answers are."""

    def __init__(self, config: HttpConfig, metrics: ServerMetrics, description: ApiDescription) -> None:
        self._common = common_headers(config)
        self._metrics = metrics
        self._description = description

    def refuse(
        self, request: web.BaseRequest, status: int, error: BaseException | None, message: str
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, a target without a path, a failure of aiohttp."""
        headers = CIMultiDict({**self._common, "Content-Type": JSON, "x-request-id": new_request_id()})
        if status == 404 and request.method == "OPTIONS":
            self._metrics.count_response(200)
            return web.Response(body=self._description.whole, headers=headers)
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
        return self._whole(reply.status, reply.json, reply.headers)

    def https_only(self) -> bytes:
        """As TorchServe says it."""
        answer = json_answer({"status": "This TorchServe instance only accepts HTTPS requests"}, indent=2)
        return self._whole(403, answer.body)

    def _whole(self, status: int, body: Buffer, more_headers: Headers = ()) -> bytes:
        self._metrics.count_response(status)
        fields = {"Content-Type": JSON, "Content-Length": str(len(body)), "x-request-id": new_request_id()}
        headers = (*fields.items(), *more_headers, ("Connection", "close"), *self._common.items())
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + bytes(body)
