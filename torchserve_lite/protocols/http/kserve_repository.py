"""KServe's and Triton's model repository over REST: what there is, and models that are loaded and unloaded by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from aiohttp import web

from torchserve_lite import errors
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import json_answer
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.management_operations import OF_AN_ARCHIVE, UNREGISTER
from torchserve_lite.protocols.http.openapi import OF_A_BODY, TEXT, YES_OR_NO, Answer, Named, Operation, lists, objects
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.kserve import KServeRepository

_TAG = "KServe V2"
_MODEL = objects({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT})
_INDEX = Operation(
    id="v2_repository_index",
    path="/v2/repository/index",
    summary="All models, loaded or not.",
    answers={
        200: Answer(
            'READY, LOADING or UNAVAILABLE, and why. A body {"ready": true}: the first.',
            Named("RepositoryIndex", lists(_MODEL)),
        )
    },
    raises=OF_A_BODY,
    tag=_TAG,
)
_LOAD = Operation(
    id="v2_repository_load",
    path="/v2/repository/models/{model_name}/load",
    summary="Serve a model of the store, by the name of its archive.",
    answers={200: Answer("It has its workers.", objects({"name": TEXT, "load": YES_OR_NO}))},
    raises=(*OF_AN_ARCHIVE, *OF_A_BODY, errors.ModelApiOff, errors.ModelNotFound),
    tag=_TAG,
)
_UNLOAD = Operation(
    id="v2_repository_unload",
    path="/v2/repository/models/{model_name}/unload",
    summary="Serve none of its versions any more.",
    answers={200: Answer("Its last requests have been answered.", objects({"name": TEXT, "unload": YES_OR_NO}))},
    raises=(*UNREGISTER.raises, *OF_A_BODY),
    tag=_TAG,
)


class KServeRepositoryRoutes:
    """On inference addresses, where its clients look for it, behind the door of management."""

    def __init__(self, repository: KServeRepository, bodies: Bodies) -> None:
        self._repository = repository
        self._bodies = bodies

    def add_to(self, table: RouteTable) -> None:
        group = table.group(ErrorForm.KSERVE, Door.MANAGEMENT)
        group.add("POST", "/v2/repository/index", self.index, _INDEX)
        group.add("POST", "/v2/repository/models/{model}/load", self.load, _LOAD)
        group.add("POST", "/v2/repository/models/{model}/unload", self.unload, _UNLOAD)

    async def index(self, request: web.Request) -> InferenceResponse:
        document = await self._object(request)
        ready_only = document.get("ready", False)
        if not isinstance(ready_only, bool):
            raise BadRequest(f'"ready" must be true or false, not {ready_only!r:.40}.')
        return json_answer([asdict(model) for model in await self._repository.index(ready_only=ready_only)])

    async def load(self, request: web.Request) -> InferenceResponse:
        given = (await self._object(request)).get("parameters") or {}
        if not isinstance(given, dict):
            raise BadRequest(f'"parameters" must be an object, not {given!r:.40}.')
        if given:
            raise BadRequest(
                f'The load has the parameter "{next(iter(given)):.80}"; a model is served as its archive and the '
                "server's configuration say. Leave it out."
            )
        name = request.match_info["model"]
        await self._repository.load(name)
        return json_answer({"name": name, "load": True})

    async def unload(self, request: web.Request) -> InferenceResponse:
        await self._object(request)  # which may say unload_dependents: there are none
        name = request.match_info["model"]
        await self._repository.unload(name)
        return json_answer({"name": name, "unload": True})

    async def _object(self, request: web.Request) -> dict[str, Any]:
        body = bytes(await self._bodies.unpacked(request))
        try:
            document = json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not valid JSON: {error}.") from error
        if not isinstance(document, dict):
            raise BadRequest("The body must be a JSON object, or empty.")
        return document
