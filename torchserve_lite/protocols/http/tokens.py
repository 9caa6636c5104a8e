"""TorchServe's ``/token``, where keys are renewed."""

from __future__ import annotations

import asyncio

from aiohttp import web

from torchserve_lite import errors
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.openapi import TEXT, Answer, Operation, Parameter
from torchserve_lite.protocols.http.routing import ANY, RouteTable

_RENEWABLE = {door.value: door for door in (Door.MANAGEMENT, Door.INFERENCE)}
_RENEW = Operation(
    id="token",
    path="/token",
    summary="Renews a key, by any method; the new one is in the server's key file.",
    answers={200: Answer("An empty line.")},
    raises=(errors.ShuttingDown,),
    parameters=(
        Parameter(
            name="type",
            description="The key that is to be renewed.",
            schema={**TEXT, "enum": list(_RENEWABLE)},
            required=True,
        ),
    ),
    tag="Management",
)


class TokenRoutes:
    """Routes of the management address, while tokens are needed."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add_to(self, table: RouteTable) -> None:
        table.group(ErrorForm.TORCHSERVE, Door.TOKENS).add(ANY, "/token", self.renew, _RENEW)

    async def renew(self, request: web.Request) -> InferenceResponse:
        """The new key is in the key file only, as with TorchServe: whoever may read that may have it."""
        asked = request.query.getall("type", [])
        if len(asked) != 1 or asked[0] not in _RENEWABLE:
            raise BadRequest("Say once which key is to be renewed: ?type=management or ?type=inference.")
        await asyncio.to_thread(self._access.renew, _RENEWABLE[asked[0]])
        return InferenceResponse(b"\n")
