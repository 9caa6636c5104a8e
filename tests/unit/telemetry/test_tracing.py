"""Which requests are recorded, and in whose span their handlers are told to work."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from tests.unit.telemetry.test_spans import ended
from tests.virtual_time import virtual_time
from torchserve_lite import server
from torchserve_lite.config.settings import TracingConfig
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.telemetry.ended_requests import RequestWatch
from torchserve_lite.telemetry.tracing import Tracing, collector_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def request(name: str = "id", context: str = "", part_of: str = "") -> InferenceRequest:
    return InferenceRequest(name, "tiny", None, Verb.PREDICT, (), trace_context=context, part_of=part_of)


def traced(spans: list[ReadableSpan] | None = None, per_second: int = 0, sampler: Sampler | None = None) -> Tracing:
    kept: list[ReadableSpan] = [] if spans is None else spans
    return Tracing(kept.append, Resource({}), per_second=per_second, sampler=sampler)


@virtual_time
async def test_so_many_traces_begin_in_a_second_and_no_more() -> None:
    tracing = traced(per_second=2)
    assert [tracing.begins(request(str(number))) for number in range(4)] == [True, True, False, False]
    await asyncio.sleep(1.5)
    assert tracing.begins(request("next"))


@pytest.mark.parametrize(("flags", "recorded"), [("01", True), ("00", False)])
@virtual_time
async def test_client_decides_about_its_own_trace(flags: str, recorded: bool) -> None:
    """Whatever number of others may begin here."""
    tracing = traced(per_second=1)
    tracing.begins(request("other"))
    asked = request(context=f"00-{TRACE}-{SPAN}-{flags}")
    assert tracing.begins(asked) is recorded
    assert asked.trace_context.startswith(f"00-{TRACE}-")
    assert (SPAN in asked.trace_context) is not recorded


@pytest.mark.parametrize(("sampler", "recorded"), [(ALWAYS_ON, True), (ALWAYS_OFF, False)])
def test_sampler_that_was_chosen_decides_alone(sampler: Sampler, recorded: bool) -> None:
    tracing = traced(per_second=1, sampler=sampler)
    context = f"00-{TRACE}-{SPAN}-{'00' if recorded else '01'}"
    assert [tracing.begins(request("1")), tracing.begins(request("2", context))] == [recorded, recorded]


def test_nonsense_in_place_of_a_trace_begins_a_new_one() -> None:
    asked = request(context="nonsense")
    assert traced().begins(asked)
    assert "nonsense" not in asked.trace_context


def test_handler_works_in_the_span_that_it_was_told() -> None:
    spans: list[ReadableSpan] = []
    tracing, asked = traced(spans), request()
    tracing.begins(asked)
    tracing.ended(ended({"request": asked}))
    (handler,) = [span for span in spans if span.name == "handler"]
    assert handler.context is not None
    assert asked.trace_context == f"00-{handler.context.trace_id:032x}-{handler.context.span_id:016x}-01"


def test_parts_of_a_request_are_recorded_all_or_none() -> None:
    tracing = traced(per_second=1, sampler=ALWAYS_OFF)
    parts = [request(name, part_of="whole") for name in "ab"]
    assert all(tracing.begins(part) for part in parts)
    assert [part.trace_context for part in parts] == ["", ""]
    tracing = traced()
    assert all(tracing.begins(part) for part in parts)
    assert len({part.trace_context[:35] for part in parts}) == 1


class Refusing(SpanExporter):
    """A collector that is not there, until it is."""

    there = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.there:
            logging.getLogger("opentelemetry.sdk").error("nobody is there")
        return SpanExportResult.SUCCESS if self.there else SpanExportResult.FAILURE


def test_collector_that_is_not_there_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    exporter = Refusing()
    with collector_of(exporter, "http://collector:4318") as collector:
        for _ in range(3):
            collector.export(())
        exporter.there = True
        collector.export(())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "http://collector:4318" in told[0]
    assert "nobody is there" in told[0]
    assert "again" in told[1]


def test_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchserve_lite.telemetry.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'torchserve-lite\[traces\]'"):
        server._tracing(TracingConfig(exporter="otlp"), RequestWatch(), Shutdown(1.0))
