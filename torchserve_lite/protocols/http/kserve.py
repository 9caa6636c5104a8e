"""What KServe's two REST protocols have in common: their JSON answers and how they tell of readiness."""

from __future__ import annotations

import json

from aiohttp import web

from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.protocols.errors import ErrorForm, reply_to
from torchserve_lite.protocols.http.exchange import JSON


def json_answer(value: object, status: int = 200) -> web.Response:
    """Content type exactly ``application/json``: KServe's SDK compares the whole string."""
    return web.Response(body=json.dumps(value).encode(), status=status, headers={"Content-Type": JSON})


async def readiness(plane: DataPlane, name: str, version: str | None = None) -> web.Response:
    """503 while the model cannot answer, because a Kubernetes probe sees the status only."""
    found = await plane.readiness(name, version)
    if found.ready:
        return json_answer({"name": name, "ready": True})
    return json_answer({"name": name, "ready": False, **reply_to(found.models[name], ErrorForm.KSERVE).body}, 503)
