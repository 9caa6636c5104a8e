"""KServe's V2 protocol (Open Inference Protocol) over REST with JSON tensors, and TorchServe's ``/explain``.

The body goes to the worker as it came; the ``kservev2`` envelope there reads the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from torchserve_lite import __version__
from torchserve_lite.core.requests import Envelope, InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.answers import JSON, json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.kserve import readiness
from torchserve_lite.protocols.http.requests import INFER_METHODS, READ, Target, check_method, make_request
from torchserve_lite.protocols.http.routing import RouteTable

_BINARY = "Inference-Header-Content-Length"
_VERBS = {"infer": Verb.PREDICT, "explain": Verb.EXPLAIN}


class KServeV2Routes:
    def __init__(self, plane: DataPlane, health: Health, bodies: Bodies) -> None:
        self._plane = plane
        self._health = health
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.KSERVE)
        group.add(READ, "/v2", self.server)
        group.add(READ, "/v2/", self.server)
        group.add(READ, "/v2/health/live", self.live)
        group.add(READ, "/v2/health/ready", self.ready)
        group.add(READ, "/v2/models", self.models)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            group.add(READ, model, self.metadata)
            group.add(READ, f"{model}/ready", self.model_ready)
            group.add(INFER_METHODS, f"{model}/{{verb:infer|explain}}", self.infer)
            group.add_plain(f"{model}/{{verb:infer|explain}}", call)
        group.add_unknown("/v2/{path:.*}")

    async def server(self, request: web.Request) -> InferenceResponse:
        return json_answer({"name": "torchserve-lite", "version": __version__, "extensions": []})

    async def live(self, request: web.Request) -> InferenceResponse:
        return json_answer({"live": True})

    async def ready(self, request: web.Request) -> InferenceResponse:
        found = await self._health.server()
        return json_answer({"ready": found.ready, **found.causes}, 200 if found.ready else 503)

    async def models(self, request: web.Request) -> InferenceResponse:
        return json_answer({"models": [model.name for model in await self._plane.models()]})

    async def metadata(self, request: web.Request) -> InferenceResponse:
        """Archives hold no tensor signature, so inputs and outputs are empty lists, which the protocol allows."""
        name, version = _model(request)
        await self._plane.check_known(name, version)
        if version is None:
            versions = next((model.versions for model in await self._plane.models() if model.name == name), ())
        else:
            versions = (version,)
        return json_answer({"name": name, "versions": versions, "platform": "pytorch", "inputs": [], "outputs": []})

    async def model_ready(self, request: web.Request) -> InferenceResponse:
        return await readiness(self._health, *_model(request))

    async def infer(self, request: web.Request) -> InferenceResponse:
        check_method(request)
        target = call(request.match_info)
        await self._plane.check_known(target.model, target.version)
        if _BINARY in request.headers:
            raise BadRequest(f"Binary tensors ({_BINARY}) are not understood by this version: send the data as JSON.")
        body = Part("body", await self._bodies.read(request), JSON)
        return await self._plane.infer(make_request(request, target, (body,)))


def call(match: Mapping[str, str]) -> Target:
    verb = _VERBS[match["verb"]]
    return Target(match["model"], match.get("version"), verb, Envelope.KSERVE_V2, content_type=JSON)


def _model(request: web.Request) -> tuple[str, str | None]:
    return request.match_info["model"], request.match_info.get("version")
