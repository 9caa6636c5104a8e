"""KServe's V2 protocol (Open Inference Protocol) over REST, and TorchServe's ``/explain``.

The body goes to the worker as it came, JSON and binary tensors; the ``kservev2`` envelope there reads them, and makes
the answer in the form that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from aiohttp import web

from torchserve_lite import __version__
from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import JSON, json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.cloud_events import CloudEvents
from torchserve_lite.protocols.http.codings import packed
from torchserve_lite.protocols.http.kserve import MODEL_NAMES, READINESS, readiness
from torchserve_lite.protocols.http.openapi import (
    ANYTHING,
    BINARY,
    NUMBER,
    OF_A_MODEL,
    OF_AN_INFERENCE,
    TEXT,
    TIME_LIMIT,
    YES_OR_NO,
    Answer,
    Body,
    Named,
    Operation,
    Parameter,
    lists,
    objects,
)
from torchserve_lite.protocols.http.requests import INFER_METHODS, READ, Target, check_method, header, make_request
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.kserve import EXTENSIONS, PLATFORM
from torchserve_lite.protocols.tensors import OCTETS, TENSORS, tensor_parts

_VERBS = {"infer": Verb.PREDICT, "explain": Verb.EXPLAIN}

_TAG = "KServe V2"
_SERVER = Operation(
    id="v2_server",
    path="/v2",
    summary="What this server is.",
    answers={
        200: Answer("Name, version, extensions.", objects({"name": TEXT, "version": TEXT, "extensions": lists(TEXT)}))
    },
    tag=_TAG,
)
_LIVE = Operation(
    id="v2_live",
    path="/v2/health/live",
    summary="That the server runs.",
    answers={200: Answer("It does.", objects({"live": YES_OR_NO}))},
    tag=_TAG,
)
_SERVER_READINESS = Named(
    "ServerReadiness",
    objects({"ready": YES_OR_NO}, reason=TEXT, models={"type": "object", "additionalProperties": TEXT}),
)
_READY = Operation(
    id="v2_ready",
    path="/v2/health/ready",
    summary="Whether every model has its workers.",
    answers={
        200: Answer("It has, or was scaled to 0 on purpose.", _SERVER_READINESS),
        503: Answer("It has not; models has the cause for each one that is not ready.", ANYTHING),
    },
    tag=_TAG,
)
_MODELS = Operation(id="v2_models", path="/v2/models", summary="The models' names.", answers=MODEL_NAMES, tag=_TAG)
_TENSOR = objects({"name": TEXT, "datatype": TEXT, "shape": lists(NUMBER)})
_METADATA = Operation(
    id="model_metadata",
    path="",
    summary="What is known of the model's tensors, and its versions.",
    answers={
        200: Answer(
            "Inputs and outputs are those of tensorSignature in its model config, or empty.",
            Named(
                "V2Metadata",
                objects(
                    {"name": TEXT, "platform": TEXT, "inputs": lists(_TENSOR), "outputs": lists(_TENSOR)},
                    versions=lists(TEXT),
                ),
            ),
        )
    },
    raises=OF_A_MODEL,
    tag=_TAG,
)
_MODEL_READY = Operation(
    id="model_ready",
    path="/ready",
    summary="Whether the model can answer.",
    answers=READINESS,
    raises=OF_A_MODEL,
    tag=_TAG,
)
_INPUT = objects(
    {"name": TEXT, "datatype": TEXT, "shape": lists(NUMBER), "data": ANYTHING}, parameters={"type": "object"}
)
_REQUEST = objects(
    {"inputs": lists(_INPUT)}, id=TEXT, parameters={"type": "object"}, outputs=lists(objects({"name": TEXT}))
)
_JSON_SIZE = Parameter(
    name=TENSORS,
    description="How many bytes of the body are its JSON. With it, tensors may stand as bytes behind that.",
    schema={"type": "integer", "minimum": 0},
    place="header",
)
_INFER = Operation(
    id="infer",
    path="/infer",
    summary="A prediction for tensors.",
    answers={
        200: Answer(
            "The output tensors, as JSON, and behind it those that were asked for as bytes.",
            Named("V2Response", {"type": "object"}),
            or_bytes=True,
        )
    },
    raises=OF_AN_INFERENCE,
    parameters=(TIME_LIMIT, _JSON_SIZE),
    body=Body(
        "V2Tensors",
        "The input tensors, as JSON, and behind it those that are sent as bytes.",
        {JSON: Named("V2Request", _REQUEST), OCTETS: BINARY},
    ),
    tag=_TAG,
)
_EXPLAIN = replace(_INFER, id="explain", path="/explain", summary="An explanation for tensors.")


def _of_model(operation: Operation) -> Operation:
    return replace(operation, id=f"v2_{operation.id}", path=f"/v2/models/{{model_name}}{operation.path}")


def _of_version(operation: Operation) -> Operation:
    path = f"/v2/models/{{model_name}}/versions/{{model_version}}{operation.path}"
    return replace(operation, id=f"v2_version_{operation.id}", path=path)


class KServeV2Routes:
    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies, events: CloudEvents) -> None:
        self._plane = plane
        self._health = health
        self._bodies = bodies
        self._events = events

    def add_to(self, table: RouteTable) -> None:
        health = table.group(ErrorForm.KSERVE, Door.OPEN)
        health.add(READ, "/v2/health/live", self.live, _LIVE)
        health.add(READ, "/v2/health/ready", self.ready, _READY)
        group = table.group(ErrorForm.KSERVE, Door.INFERENCE)
        group.add(READ, "/v2", self.server, _SERVER)
        group.add(READ, "/v2/models", self.models, _MODELS)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            described = _of_model if model.endswith("{model}") else _of_version
            group.add(READ, model, self.metadata, described(_METADATA))
            health.add(READ, f"{model}/ready", self.model_ready, described(_MODEL_READY))
            calls = (described(_INFER), described(_EXPLAIN))
            group.add(INFER_METHODS, f"{model}/{{verb:infer|explain}}", self.infer, *calls)
            group.add_plain(f"{model}/{{verb:infer|explain}}", call)
        group.add_unknown("/v2/{path:.*}")

    async def server(self, request: web.Request) -> InferenceResponse:
        return json_answer({"name": "torchserve-lite", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, request: web.Request) -> InferenceResponse:
        return json_answer({"live": True})

    async def ready(self, request: web.Request) -> InferenceResponse:
        found = await self._health.server()
        return json_answer({"ready": found.ready, **found.causes}, 200 if found.ready else 503)

    async def models(self, request: web.Request) -> InferenceResponse:
        return json_answer({"models": [model.name for model in await self._plane.models()]})

    async def metadata(self, request: web.Request) -> InferenceResponse:
        """Without a signature inputs and outputs are empty lists, which the protocol allows."""
        name, version = _model(request)
        found = await self._plane.metadata(name, version)
        return json_answer(
            {
                "name": name,
                "versions": found.versions,
                "platform": found.signature.platform or PLATFORM,
                "inputs": [asdict(tensor) for tensor in found.signature.inputs],
                "outputs": [asdict(tensor) for tensor in found.signature.outputs],
            }
        )

    async def model_ready(self, request: web.Request) -> InferenceResponse:
        return await readiness(self._health, *_model(request))

    async def infer(self, request: web.Request) -> InferenceResponse:
        check_method(request)
        target = call(request.match_info)
        await self._plane.check_known(target.model, target.version)
        body = await self._bodies.unpacked(request)
        parts: tuple[Part, ...] = (Part("body", body, JSON),)
        if TENSORS in request.headers:
            parts = tensor_parts(body, header(request, TENSORS))
        answer = await self._plane.infer(make_request(request, target, parts))
        answer = self._events.answer(request, body, target.model, answer)
        return await packed(answer, header(request, "Accept-Encoding"))


def call(match: Mapping[str, str]) -> Target:
    verb = _VERBS[match["verb"]]
    return Target(match["model"], match.get("version"), verb, Envelope.KSERVE_V2, content_type=JSON)


def _model(request: web.Request) -> tuple[str, str | None]:
    return request.match_info["model"], request.match_info.get("version")
