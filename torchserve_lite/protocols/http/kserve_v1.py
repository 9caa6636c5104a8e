"""KServe's V1 protocol: lists, readiness, ``:predict`` and ``:explain``.

The body goes to the worker as it came; the ``kserve`` envelope there splits ``instances``.
"""

from __future__ import annotations

from aiohttp import web

from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import MethodNotAllowed, RouteNotFound
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import JSON, json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.kserve import readiness
from torchserve_lite.protocols.http.requests import READ, check_method, make_request
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_VERBS = {"predict": Verb.PREDICT, "explain": Verb.EXPLAIN}


class KServeV1Routes:
    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies) -> None:
        self._plane = plane
        self._health = health
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.KSERVE)
        group.add(READ, "/", self.alive)
        group.add(READ, "/v1/models", self.models)
        group.add(ANY, "/v1/models/{target:.+}", self.model)
        group.add_unknown("/v1/{path:.*}")

    async def alive(self, request: web.Request) -> InferenceResponse:
        return json_answer({"status": "alive"})

    async def models(self, request: web.Request) -> InferenceResponse:
        return json_answer({"models": [model.name for model in await self._plane.models()]})

    async def model(self, request: web.Request) -> InferenceResponse:
        target = request.match_info["target"].rstrip("/")
        name, colon, verb = target.rpartition(":")
        if not colon:
            if request.method not in READ:
                raise MethodNotAllowed(READ)
            return await readiness(self._health, target)
        if verb not in _VERBS:
            raise RouteNotFound
        check_method(request)
        await self._plane.check_known(name, None)
        body = Part("body", await self._bodies.read(request), JSON)
        question = make_request(request, model=name, verb=_VERBS[verb], parts=(body,), envelope=Envelope.KSERVE)
        return await self._plane.infer(question)
