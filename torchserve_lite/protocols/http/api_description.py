"""TorchServe's two ways of asking a listener for its API description."""

from __future__ import annotations

from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.answers import JSON
from torchserve_lite.protocols.http.openapi import Answer, Operation
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_DOCUMENT = {200: Answer("This document.", {"type": "object", "required": ["openapi", "paths"]})}
_ROOT = Operation(
    id="apiDescription", path="/", summary="The API description of this listener.", answers=_DOCUMENT, tag="Description"
)
_OLDER = Operation(
    id="api-description",
    path="/api-description",
    summary="The same, by any method. Use OPTIONS / instead.",
    answers=_DOCUMENT,
    tag="Description",
    methods=("GET",),
    deprecated=True,
)


class ApiDescriptionRoutes:
    """Routes of every address."""

    def add_to(self, table: RouteTable) -> None:
        async def describe(request: web.Request) -> InferenceResponse:
            return InferenceResponse(table.description.whole, content_type=JSON)

        group = table.group(ErrorForm.TORCHSERVE, Door.OPEN)
        group.add("OPTIONS", "/", describe, _ROOT)
        group.add((ANY, "OPTIONS"), "/api-description", describe, _OLDER)
