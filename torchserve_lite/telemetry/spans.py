"""What is told of a request in a trace: one span for the request as its client sees it, and below it, for each model
that was asked, where its time went. OpenTelemetry's names where it has some; ours begin with ``torchserve.``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from torchserve_lite.telemetry.ended_requests import EndedRequest, ModelRun

Attributes = dict[str, str | int]

_ROUTES = (
    (re.compile(r"/(predictions|explanations)/[^/]+/?"), r"/\1/{model_name}"),
    (re.compile(r"/(predictions|explanations)/[^/]+/[^/]+/?"), r"/\1/{model_name}/{model_version}"),
    (re.compile(r"/(predictions|explanations)/.+"), r"/\1/{model_name}/{model_version}/{url_path}"),
    (re.compile(r"/v1/models/.+:(predict|explain)/?"), r"/v1/models/{model_name}:\1"),
    (re.compile(r"/v2/models/[^/]+/(infer|explain)/?"), r"/v2/models/{model_name}/\1"),
    (re.compile(r"/v2/models/[^/]+/versions/[^/]+/(infer|explain)/?"),
     r"/v2/models/{model_name}/versions/{model_version}/\1"),
    (re.compile(r"/models/[^/]+/invoke/?"), "/models/{model_name}/invoke"),
    (re.compile(r"/(?i:wfpredict)/[^/]+/?"), "/wfpredict/{workflow_name}"),
    (re.compile(r"/[^/]+/predict/?"), "/{model_name}/predict"),
    (re.compile(r"/[^/]+/[^/]+/predict/?"), "/{model_name}/{model_version}/predict"),
)  # fmt: skip
_SERVERS_FAULT_GRPC = {2, 4, 12, 13, 14, 15}  # as OpenTelemetry's conventions for gRPC have it
_LEFT = "client_left"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFacts:
    """One span. Times are seconds, ``began`` counted from the request's beginning; ``key`` says which id it has: that
    of the ``request``, that of the ``handler`` (which was told it), or any. ``children`` lie within it."""

    name: str
    began: float
    seconds: float
    attributes: Attributes = field(default_factory=dict)
    error: str = ""
    key: Literal["request", "handler", ""] = ""
    of: str = ""  # the id of the request whose handler it is
    children: tuple[SpanFacts, ...] = ()


def spans_of(ended: EndedRequest) -> SpanFacts:
    """The span of the request, with all others in it."""
    rpc = ended.asked.startswith("gRPC ")
    name, attributes = _grpc(ended) if rpc else _http(ended)
    attributes["torchserve.request.id"] = ended.id
    host, _, port = ended.peer.removeprefix("/").rpartition(":")
    if host and port.isdecimal():
        attributes |= {"client.address": host, "client.port": int(port)}
    error = _LEFT if ended.status is None else ""
    if ended.status is not None and (ended.status in _SERVERS_FAULT_GRPC if rpc else ended.status >= 500):
        error = ended.error or str(ended.status)
    if error:
        attributes["error.type"] = error
    return SpanFacts(
        name=name,
        began=0.0,
        seconds=ended.seconds,
        attributes=attributes,
        error=error,
        key="request",
        children=tuple([_model(run, ended) for run in ended.runs]),
    )


def _http(ended: EndedRequest) -> tuple[str, Attributes]:
    method, _, rest = ended.asked.partition(" ")
    path = rest.removesuffix(" HTTP/1.1").partition("?")[0]
    route = _route(path)
    attributes: Attributes = {"http.request.method": method, "url.path": path, "http.route": route}
    if ended.status is not None:
        attributes["http.response.status_code"] = ended.status
    return f"{method} {route}", attributes


def _route(path: str) -> str:
    """Without names of models and versions, so that requests to the same route have the same name."""
    for form, template in _ROUTES:
        if match := form.fullmatch(path):
            return match.expand(template)
    return path


def _grpc(ended: EndedRequest) -> tuple[str, Attributes]:
    called = ended.asked.removeprefix("gRPC ").removesuffix(" HTTP/2.0")
    service, _, method = called.partition("/")
    attributes: Attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    if ended.status is not None:
        attributes["rpc.grpc.status_code"] = ended.status
    return called, attributes


def _model(run: ModelRun, ended: EndedRequest) -> SpanFacts:
    attributes: Attributes = {"torchserve.model.name": run.model.name, "torchserve.model.version": run.model.version}
    if run.request.id != ended.id:
        attributes["torchserve.request.id"] = run.request.id
    if run.error:
        attributes["error.type"] = run.error
    sent = run.arrived + run.queue
    children = [SpanFacts(name="queue", began=run.arrived, seconds=run.queue)]
    if run.batch_size:
        # The worker says how long its handler had the batch, not from when on: what comes before is the wait behind
        # another batch, and what comes after is next to nothing.
        begun = sent + run.way if run.handler else sent
        steps = [SpanFacts(name=step.name, began=begun + step.began, seconds=step.seconds) for step in run.steps]
        handler = SpanFacts(
            name="handler",
            began=begun,
            seconds=run.handler or run.way,
            key="handler",
            of=run.request.id,
            children=tuple(steps),
        )
        size: Attributes = {"torchserve.batch.size": run.batch_size}
        batch = SpanFacts(name="batch", began=sent, seconds=run.way + run.handler, attributes=size, children=(handler,))
        children.append(batch)
    return SpanFacts(
        name=f"{run.request.verb} {run.model.name}",
        began=run.arrived,
        seconds=run.seconds,
        attributes=attributes,
        error=run.error,
        children=tuple(children),
    )
