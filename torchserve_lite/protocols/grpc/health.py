"""gRPC's standard health service, which Kubernetes' probes ask."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from torchserve_lite.errors import NotFound
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.grpc.calls import Call, Service
from torchserve_lite.protocols.grpc.messages import Messages
from torchserve_lite.protocols.health import Health

HEALTH = "grpc.health.v1.Health"
_LOOK_AGAIN = 1.0  # seconds between two looks for whoever watches


class HealthService:
    """``served``: the services whose health can be asked for. All share that of the server."""

    def __init__(self, health: Health, messages: Messages, served: Collection[str]) -> None:
        self._health = health
        self._served = {"", *served}
        self._answer = messages.named("grpc.health.v1.HealthCheckResponse")

    @property
    def service(self) -> Service:
        methods = {"Check": self.check, "Watch": self.watch}
        return Service(name=HEALTH, methods=methods, form=ErrorForm.KSERVE)

    async def check(self, request: Any, call: Call) -> Any:
        if request.service not in self._served:
            raise NotFound(f"There is no service {request.service:.200}.")
        return self._answer(status=await self._status(request.service))

    async def watch(self, request: Any, call: Call) -> None:
        """Until the client has enough, or the server stops."""
        told = None
        while True:
            stopping = call.stopping.is_set()
            status = await self._status(request.service)
            if status != told:
                await call.send(self._answer(status=status))
                told = status
            if stopping:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(call.stopping.wait(), _LOOK_AGAIN)

    async def _status(self, service: str) -> str:
        if service not in self._served:
            return "SERVICE_UNKNOWN"
        return "SERVING" if (await self._health.server()).ready else "NOT_SERVING"
