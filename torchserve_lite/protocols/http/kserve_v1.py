"""KServe's V1 protocol: lists, readiness, ``:predict`` and ``:explain``.

The body goes to the worker as it came; the ``kserve`` envelope there splits ``instances``.
"""

from __future__ import annotations

from aiohttp import web

from torchserve_lite.core.requests import Envelope, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import MethodNotAllowed, RouteNotFound
from torchserve_lite.protocols.http.exchange import JSON, READ, check_method, make_request, send
from torchserve_lite.protocols.http.kserve import json_answer, readiness
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_VERBS = {"predict": Verb.PREDICT, "explain": Verb.EXPLAIN}


class KServeV1Routes:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def add_to(self, table: RouteTable) -> None:
        table.add(READ, "/", self.alive)
        table.add(READ, "/v1/models", self.models)
        table.add(ANY, "/v1/models/{target:.+}", self.model)

    async def alive(self, request: web.Request) -> web.Response:
        return json_answer({"status": "alive"})

    async def models(self, request: web.Request) -> web.Response:
        return json_answer({"models": [model.name for model in await self._plane.models()]})

    async def model(self, request: web.Request) -> web.StreamResponse:
        target = request.match_info["target"].rstrip("/")
        name, colon, verb = target.rpartition(":")
        if not colon:
            if request.method not in READ:
                raise MethodNotAllowed(READ)
            return await readiness(self._plane, target)
        if verb not in _VERBS:
            raise RouteNotFound
        return await self._infer(request, name, _VERBS[verb])

    async def _infer(self, request: web.Request, name: str, verb: Verb) -> web.StreamResponse:
        check_method(request)
        await self._plane.check_known(name, None)
        body = Part("body", await request.read(), JSON)
        question = make_request(request, model=name, verb=verb, parts=(body,), envelope=Envelope.KSERVE)
        return await send(request, await self._plane.infer(question))
