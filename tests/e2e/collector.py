"""An OTLP collector in miniature: takes spans over HTTP as collectors do, reads the real protobuf, and keeps them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.e2e.server import PATIENCE


@dataclass(frozen=True)
class Span:
    """Ids in hexadecimal, times in nanoseconds since 1970; ``service`` is the name of who has sent it."""

    name: str
    trace_id: str
    id: str
    parent: str
    began: int
    ended: int
    kind: int
    attributes: dict[str, Any]
    failed: bool
    error: str
    state: str
    service: str


class Collector:
    """``url``: for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self._news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            about = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span(span, str(about["service.name"])) for span in scope.spans]
        self._news.set()
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    async def trace(self, trace_id: str, root: str) -> dict[str, Span]:
        """The spans of a trace by their names, once the one named ``root`` is among them: it is sent first, and those
        that belong to it with it or behind it."""
        return {span.name: span for span in await self.all_of(trace_id, root)}

    async def all_of(self, trace_id: str, root: str, last: str = "handler") -> list[Span]:
        async with asyncio.timeout(PATIENCE):
            while True:
                self._news.clear()
                found = [span for span in self.spans if span.trace_id == trace_id]
                if {root, last} <= {span.name for span in found}:
                    return found
                await self._news.wait()


def _span(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        kind=span.kind,
        attributes=_values(span.attributes),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        error=span.status.message,
        state=span.trace_state,
        service=service,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        collector.url = f"http://{host}:{port}"
        yield collector
    finally:
        await runner.cleanup()
