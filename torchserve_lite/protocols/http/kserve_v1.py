"""KServe's V1 protocol: lists, readiness, ``:predict`` and ``:explain``.

The body goes to the worker as it came; the ``kserve`` envelope there splits ``instances``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import RouteNotFound
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import JSON, json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.cloud_events import CloudEvents
from torchserve_lite.protocols.http.kserve import MODEL_NAMES, READINESS, readiness
from torchserve_lite.protocols.http.openapi import (
    ANYTHING,
    OF_A_MODEL,
    OF_AN_INFERENCE,
    TIME_LIMIT,
    Answer,
    Body,
    Named,
    Operation,
    lists,
    objects,
)
from torchserve_lite.protocols.http.requests import INFER_METHODS, READ, Target, check_method, make_request
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_WITHOUT_A_VERB = "(?:(?!:|%3[Aa])(?s:.))+"
_VERBS = {"predict": Verb.PREDICT, "explain": Verb.EXPLAIN}

_ALIVE = Operation(
    id="v1_alive",
    path="/",
    summary="That the server runs.",
    answers={200: Answer("It does.", objects({"status": {"type": "string", "enum": ["alive"]}}))},
    tag="KServe V1",
)
_MODELS = Operation(
    id="v1_models", path="/v1/models", summary="The models' names.", answers=MODEL_NAMES, tag="KServe V1"
)
_READY = Operation(
    id="v1_model_ready",
    path="/v1/models/{model_name}",
    summary="Whether the model can answer.",
    answers=READINESS,
    raises=OF_A_MODEL,
    tag="KServe V1",
)
_PREDICT = Operation(
    id="v1_predict",
    path="/v1/models/{model_name}:predict",
    summary="A prediction for each instance.",
    answers={200: Answer("An entry for each instance, in order. A body of V2's is answered as there.", ANYTHING)},
    raises=OF_AN_INFERENCE,
    parameters=(TIME_LIMIT,),
    body=Body("V1Instances", "The instances.", {JSON: Named("V1Request", objects({"instances": lists(ANYTHING)}))}),
    tag="KServe V1",
    methods=INFER_METHODS,
)
_EXPLAIN = replace(
    _PREDICT,
    id="v1_explain",
    path="/v1/models/{model_name}:explain",
    summary="An explanation for each instance.",
)


class KServeV1Routes:
    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies, events: CloudEvents) -> None:
        self._plane = plane
        self._health = health
        self._bodies = bodies
        self._events = events

    def add_to(self, table: RouteTable) -> None:
        health = table.group(ErrorForm.KSERVE, Door.OPEN)
        health.add(READ, "/", self.alive, _ALIVE)
        health.add(READ, f"/v1/models/{{model:{_WITHOUT_A_VERB}}}", self.ready, _READY)
        group = table.group(ErrorForm.KSERVE, Door.INFERENCE)
        group.add(READ, "/v1/models", self.models, _MODELS)
        group.add(ANY, "/v1/models/{target:.+}", self.model, _PREDICT, _EXPLAIN)
        group.add_plain("/v1/models/{target:.+}", call)
        group.add_unknown("/v1/{path:.*}")

    async def alive(self, request: web.Request) -> InferenceResponse:
        return json_answer({"status": "alive"})

    async def models(self, request: web.Request) -> InferenceResponse:
        return json_answer({"models": [model.name for model in await self._plane.models()]})

    async def ready(self, request: web.Request) -> InferenceResponse:
        return await readiness(self._health, request.match_info["model"].rstrip("/"))

    async def model(self, request: web.Request) -> InferenceResponse:
        target = call(request.match_info)
        if target is None:
            raise RouteNotFound
        check_method(request)
        await self._plane.check_known(target.model, None)
        body = await self._bodies.unpacked(request)
        answer = await self._plane.infer(make_request(request, target, (Part("body", body, JSON),)))
        return self._events.answer(request, body, target.model, answer)


class KServeV1ReadinessRoutes:
    """What KServe asks of a management listener that is one of its own."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def add_to(self, table: RouteTable) -> None:
        table.group(ErrorForm.KSERVE, Door.OPEN).add(READ, "/v1/models/{model}", self.ready, _READY)

    async def ready(self, request: web.Request) -> InferenceResponse:
        return await readiness(self._health, request.match_info["model"].partition(":")[0])


def call(match: Mapping[str, str]) -> Target | None:
    """``model:verb``; none where no verb is named."""
    name, colon, verb = match["target"].rstrip("/").rpartition(":")
    if not colon:
        return None
    if verb not in _VERBS:
        raise RouteNotFound
    return Target(name, verb=_VERBS[verb], envelope=Envelope.KSERVE, content_type=JSON)
