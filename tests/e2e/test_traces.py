"""Traces of a real server, as a collector gets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.e2e.collector import Collector, Span, collecting
from tests.e2e.server import Server, grpc_address, running, write_model
from torchserve_lite.protocols.grpc.messages import load_messages
from torchserve_lite.workflows.builder import WorkflowArchiveRequest, build

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEPPED = """
import time

class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        for step in ("preprocess", "inference", "postprocess"):
            context.mark_stage(step, -1)
            time.sleep(0.002)
        body = data[0].get("body") or b""
        if bytes(body) == b"fail":
            raise ValueError("planted")
        if bytes(body) == b"stream":
            return [(piece for piece in ("a", "b"))]
        return [context.get_request_header(0, "traceparent") or "none"]
"""


FUNCTIONS = """
def first(data, context):
    return data and [row["body"] for row in data]

def second(data, context):
    return data and [row["body"] for row in data]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


@asynccontextmanager
async def traced(
    folder: Path, collector: Collector, environment: Mapping[str, str] | None = None, **settings: object
) -> AsyncIterator[Server]:
    write_model(folder / "store", "stepped", STEPPED)
    (folder / "chain.yaml").write_text("dag: {first: [second]}")
    (folder / "functions.py").write_text(FUNCTIONS)
    build(
        WorkflowArchiveRequest(
            workflow_name="chain",
            spec_file=str(folder / "chain.yaml"),
            handler=str(folder / "functions.py"),
            export_path=str(folder / "store"),
        )
    )
    facts = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "no_proxy": "127.0.0.1",
        **(environment or {}),
    }
    more = {"tracing": "otlp", "load_models": "stepped", "enable_model_api": "true", **settings}
    async with running(folder, folder / "store", more, environment=facts) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> AsyncIterator[Server]:
    async with traced(tmp_path_factory.mktemp("traced"), collector) as made:
        yield made


def trace_id(number: int) -> str:
    return f"{TRACE[:-4]}{number:04x}"


async def asked(
    server: Server, path: str, number: int, *, flags: str = "01", data: bytes = b"7", status: int = 200, **more: str
) -> str:
    headers = {"traceparent": f"00-{trace_id(number)}-{SPAN}-{flags}", **more}
    async with server.client.post(server.url + path, data=data, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.text()


def check_nested(spans: Mapping[str, Span]) -> None:
    """Each lies within its parent; a queue's end is a batch's beginning."""
    by_id = {span.id: span for span in spans.values()}
    for span in spans.values():
        assert span.began <= span.ended
        if span.parent in by_id:
            parent = by_id[span.parent]
            slack = 1000  # nanoseconds: seconds since 1970 have no more digits
            assert parent.began - slack <= span.began, (parent, span)
            assert span.ended <= parent.ended + slack, (parent, span)


@pytest.mark.parametrize(
    ("number", "path", "route"),
    [
        pytest.param(1, "/predictions/stepped", "/predictions/{model_name}", id="fast path"),
        pytest.param(2, "/predictions/stepped/1.0?a=b", "/predictions/{model_name}/{model_version}", id="aiohttp"),
    ],
)
async def test_one_requests_spans_lead_from_http_to_the_handler_and_back(
    server: Server, collector: Collector, number: int, path: str, route: str
) -> None:
    told = await asked(server, path, number, tracestate="vendor=1")
    spans = await collector.trace(trace_id(number), f"POST {route}")
    root = spans[f"POST {route}"]
    assert (root.parent, root.kind, root.state, root.service) == (SPAN, 2, "vendor=1", "torchserve-lite")
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["http.route"] == route
    below = {"predict stepped": root.name, "queue": "predict stepped", "batch": "predict stepped", "handler": "batch"}
    below |= dict.fromkeys(("preprocess", "inference", "postprocess"), "handler")
    assert {name: next(one.name for one in spans.values() if one.id == spans[name].parent) for name in below} == below
    assert told == f"00-{trace_id(number)}-{spans['handler'].id}-01"
    check_nested(spans)


async def test_handler_that_fails_fails_its_spans(server: Server, collector: Collector) -> None:
    await asked(server, "/predictions/stepped", 3, data=b"fail", status=503)
    spans = await collector.trace(trace_id(3), "POST /predictions/{model_name}")
    failed = {name for name, span in spans.items() if span.failed}
    assert failed == {"POST /predictions/{model_name}", "predict stepped"}
    assert spans["predict stepped"].attributes["error.type"] == "PredictionFailed"


async def test_span_of_a_stream_ends_with_it(server: Server, collector: Collector) -> None:
    assert await asked(server, "/predictions/stepped", 4, data=b"stream") == "ab"
    check_nested(await collector.trace(trace_id(4), "POST /predictions/{model_name}"))


async def test_trace_that_the_client_does_not_record_is_not_recorded_here(server: Server, collector: Collector) -> None:
    told = await asked(server, "/predictions/stepped", 5, flags="00")
    await asked(server, "/predictions/stepped", 6)
    await collector.trace(trace_id(6), "POST /predictions/{model_name}")  # which was sent later
    assert told == f"00-{trace_id(5)}-{SPAN}-00"
    assert [span for span in collector.spans if span.trace_id == trace_id(5)] == []


async def test_request_without_a_trace_begins_one(server: Server, collector: Collector) -> None:
    async with server.client.post(f"{server.url}/predictions/stepped", data=b"7") as response:
        told = await response.text()
    spans = await collector.trace(told[3:35], "POST /predictions/{model_name}")
    root = spans["POST /predictions/{model_name}"]
    assert root.parent == ""
    assert root.attributes["torchserve.request.id"] == response.headers["x-request-id"]


async def test_grpc_call_has_its_spans_below_the_clients(server: Server, collector: Collector) -> None:
    service = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
    messages = load_messages()
    request = messages.named("org.pytorch.serve.grpc.inference.PredictionsRequest")(
        model_name="stepped", input={"body": b"7"}
    )
    async with grpc.aio.insecure_channel(grpc_address(server)) as channel:
        call: Any = channel.unary_unary(f"/{service}/Predictions")
        await call(request.SerializeToString(), metadata=(("traceparent", f"00-{trace_id(7)}-{SPAN}-01"),))
    spans = await collector.trace(trace_id(7), f"{service}/Predictions")
    root = spans[f"{service}/Predictions"]
    assert (root.parent, root.kind) == (SPAN, 2)
    assert (root.attributes["rpc.system"], root.attributes["rpc.grpc.status_code"]) == ("grpc", 0)
    assert spans["handler"].parent == spans["batch"].id
    check_nested(spans)


async def test_nodes_of_a_workflow_are_below_its_request(server: Server, collector: Collector) -> None:
    async with server.client.post(f"{server.url}/workflows?url=chain.war") as response:
        assert response.status == 200, await response.text()
    assert await asked(server, "/wfpredict/chain", 9, data=b"7") == "7"
    spans = await collector.all_of(trace_id(9), "POST /wfpredict/{workflow_name}", "predict chain__second")
    (root,) = [span for span in spans if span.name.startswith("POST")]
    assert root.parent == SPAN
    below = [span for span in spans if span.parent == root.id]
    assert [span.name for span in sorted(below, key=lambda span: span.began)] == [
        "predict chain__first",
        "predict chain__second",
    ]


async def test_collector_that_is_not_there_costs_one_warning_and_no_time(tmp_path: Path, collector: Collector) -> None:
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    async with traced(tmp_path, collector, nobody, shutdown_grace_seconds=5) as server:
        for number in range(5):
            await asked(server, "/predictions/stepped", number)
        await server.line("Traces cannot be sent")
        assert await server.stop() == 0
    assert sum("Traces cannot be sent" in line for line in server.lines) == 1
    assert not any("opentelemetry" in line.lower() and "Traces cannot" not in line for line in server.lines)


async def test_stop_sends_what_was_recorded(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, collector, {"OTEL_BSP_SCHEDULE_DELAY": "600000"}) as server:
        await asked(server, "/predictions/stepped", 8)
        await server.stop()
    assert trace_id(8) in {span.trace_id for span in collector.spans}
