"""Traces by OpenTelemetry: a request's spans are made when it has ended, of times that were measured anyway, and sent
to a collector by a thread of their own. Workers need no OpenTelemetry: they are told in whose span they work.

Needs the packages of the extra ``traces``, so it is imported only where traces are wanted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from torchserve_lite import __version__
from torchserve_lite.config.settings import TracingConfig
from torchserve_lite.core.requests import Headers, InferenceRequest
from torchserve_lite.core.trace_context import TraceContext, trace_context
from torchserve_lite.telemetry.ended_requests import EndedRequest, RequestWatch
from torchserve_lite.telemetry.spans import SpanFacts, spans_of

log = logging.getLogger(__name__)

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("torchserve_lite", __version__)
_SEND_EVERY = (
    1000  # milliseconds: five times as often as by default, so that writing them takes the loop less at a time
)
_WARN_EVERY = 300.0  # seconds


@dataclass(slots=True)
class _Trace:
    """A request that is recorded. ``handlers``: the spans that its handlers work in, by the ids of their requests."""

    trace_id: int
    span_id: int
    parent: SpanContext | None
    handlers: dict[str, int] = field(default_factory=dict)


class Tracing:
    """A ``RequestListener``. A trace that a client has begun is recorded if the client records it. Others begin here,
    at most ``per_second`` of them in a second (0: all), or as ``sampler`` says, when there is one."""

    def __init__(
        self,
        emit: Callable[[ReadableSpan], None],
        resource: Resource,
        *,
        per_second: int = 0,
        sampler: Sampler | None = None,
    ) -> None:
        self._emit = emit
        self._resource = resource
        self._sampler = sampler
        self._per_second = per_second
        self._left = per_second  # of those that may begin in this second
        self._may_begin = True  # another one; an attribute, because it is asked for each request
        self._next_second: asyncio.TimerHandle | None = None
        self._ids = TracerProvider(shutdown_on_exit=False).id_generator
        self._open: dict[str, _Trace | None] = {}  # None: parts of a request that is not recorded

    def begins(self, request: InferenceRequest) -> bool:
        whole = request.part_of
        if not whole and not request.trace_context and not self._may_begin:  # most requests of a busy server
            return False
        if whole and whole in self._open:
            recorded = self._open[whole]
        else:
            recorded = self._recorded(request)
            if recorded is None and not whole:
                return False
            self._open[whole or request.id] = recorded
        if recorded is not None:
            span = recorded.handlers[request.id] = self._ids.generate_span_id()
            request.trace_context = str(TraceContext(f"{recorded.trace_id:032x}", f"{span:016x}", True))
        return True

    def _recorded(self, request: InferenceRequest) -> _Trace | None:
        """The trace that is begun or gone on with for this request, if it is to be recorded."""
        said = trace_context(request.trace_context) if request.trace_context else None
        if self._sampler is None:
            if not (said.sampled if said else self._may_begin):
                return None
            if said is None and self._per_second:
                self._begin_one()
        parent = None if said is None else _parent(said, request.headers)
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        if self._sampler is not None:
            context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
            decided = self._sampler.should_sample(context, trace_id, str(request.verb), SpanKind.SERVER)
            if decided.decision is not Decision.RECORD_AND_SAMPLE:
                return None
        return _Trace(trace_id, self._ids.generate_span_id(), parent)

    def _begin_one(self) -> None:
        """The second in which so many may begin is that which follows the first of them."""
        self._left -= 1
        self._may_begin = self._left > 0
        if self._next_second is None:
            self._next_second = asyncio.get_running_loop().call_later(1.0, self._begin_anew)

    def _begin_anew(self) -> None:
        self._left, self._may_begin, self._next_second = self._per_second, True, None

    def close(self) -> None:
        if self._next_second is not None:
            self._next_second.cancel()

    def ended(self, ended: EndedRequest) -> None:
        recorded = self._open.pop(ended.id, None)
        if recorded is not None:
            self._emit_all(spans_of(ended), ended, recorded, recorded.parent)

    def _emit_all(self, facts: SpanFacts, ended: EndedRequest, recorded: _Trace, parent: SpanContext | None) -> None:
        """This span, and those within it."""
        if facts.key == "request":
            span_id = recorded.span_id
        elif facts.key == "handler":
            span_id = recorded.handlers[facts.of]
        else:
            span_id = self._ids.generate_span_id()
        state = recorded.parent.trace_state if recorded.parent is not None else None
        context = SpanContext(recorded.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=state)
        began = ended.began + facts.began
        span = ReadableSpan(
            facts.name,
            context,
            parent,
            self._resource,
            facts.attributes,
            kind=SpanKind.SERVER if facts.key == "request" else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, facts.error) if facts.error else Status(),
            start_time=int(began * 1e9),
            end_time=int((began + facts.seconds) * 1e9),
            instrumentation_scope=_SCOPE,
        )
        self._emit(span)
        for child in facts.children:
            self._emit_all(child, ended, recorded, context)


def _parent(said: TraceContext, headers: Headers) -> SpanContext:
    states = [value for name, value in headers if name.lower() == "tracestate"]
    return SpanContext(
        int(said.trace_id, 16),
        int(said.span_id, 16),
        is_remote=True,
        trace_flags=_SAMPLED if said.sampled else TraceFlags(0),
        trace_state=TraceState.from_header(states),
    )


class _Collector(SpanExporter):
    """Sends to the collector that OpenTelemetry's variables name. Of one that cannot be reached the log says so, with
    what it was last told, but not for each attempt."""

    def __init__(self, exporter: SpanExporter, endpoint: str, said: _LastWords) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._said = said
        self._silent_until = 0.0
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            result, self._said.text = SpanExportResult.FAILURE, str(error)
        if result is SpanExportResult.SUCCESS:
            if self._silent_until:
                log.info("Traces can be sent to %s again. %d spans were lost.", self._endpoint, self._lost)
                self._lost, self._silent_until = 0, 0.0
            return result
        self._lost += len(spans)
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _WARN_EVERY
            log.warning(
                "Traces cannot be sent to %s (%d spans are lost): %s. Look whether OTEL_EXPORTER_OTLP_ENDPOINT is the "
                "URL of a collector that runs and takes OTLP over HTTP.",
                self._endpoint,
                self._lost,
                self._said.text.rstrip(".") or "it refused them",
            )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _LastWords(logging.Handler):
    """Instead of the log: OpenTelemetry has a line for each attempt and each lost span."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


@contextmanager
def collector_of(exporter: SpanExporter, endpoint: str) -> Iterator[SpanExporter]:
    """What ``exporter`` sends to, with a log that is bearable while it cannot be reached."""
    logger, said = logging.getLogger("opentelemetry"), _LastWords()
    logger.addHandler(said)
    logger.propagate = False
    try:
        yield _Collector(exporter, endpoint, said)
    finally:
        logger.propagate = True
        logger.removeHandler(said)


@asynccontextmanager
async def tracing(config: TracingConfig, watch: RequestWatch, patience: Callable[[], float]) -> AsyncIterator[None]:
    """Entered: requests are traced. Left: what was recorded has been sent, or ``patience()`` seconds have passed."""
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    delay = None if config.delay_chosen else _SEND_EVERY
    with collector_of(OTLPSpanExporter(), config.endpoint) as collector:
        processor = BatchSpanProcessor(collector, schedule_delay_millis=delay)
        listener = Tracing(
            processor.on_end,
            provider.resource,
            per_second=config.per_second,
            sampler=provider.sampler if config.sampler_chosen else None,
        )
        watch.listeners.append(listener)
        log.info("Traces are sent to %s.", config.endpoint)
        try:
            yield
        finally:
            watch.listeners.remove(listener)
            listener.close()
            # A thread of its own, which ends with the process: it may wait for a collector that is not there.
            ending = threading.Thread(target=processor.shutdown, daemon=True)
            ending.start()
            await asyncio.to_thread(ending.join, patience())


def _resource() -> Resource:
    """Who we are, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say something else."""
    resource = Resource({SERVICE_VERSION: __version__}).merge(Resource.create())
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "torchserve-lite"}))
    return resource
