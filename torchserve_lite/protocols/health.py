"""What probes are told: the data plane's readiness, and that a server which stops is not ready any more."""

from __future__ import annotations

from dataclasses import replace

from torchserve_lite.dataplane.interface import DataPlane, Readiness
from torchserve_lite.errors import ShuttingDown


class Health:
    """Shared by all listeners. ``stopping`` is set first of all when the server stops, so that probes send clients
    elsewhere while connections are still accepted."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.stopping = False

    async def server(self) -> Readiness:
        return self._with_stop(await self._plane.server_ready())

    async def model(self, name: str, version: str | None) -> Readiness:
        return self._with_stop(await self._plane.readiness(name, version))

    def _with_stop(self, found: Readiness) -> Readiness:
        return replace(found, server=ShuttingDown()) if self.stopping else found
