"""The HTTP listeners: which routes stand on which address, and how they stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from torchserve_lite.config.settings import Address, HttpConfig
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.exchange import Exchange
from torchserve_lite.protocols.http.kserve_v1 import KServeV1Routes
from torchserve_lite.protocols.http.kserve_v2 import KServeV2Routes
from torchserve_lite.protocols.http.management import ManagementRoutes, MetricsRoutes
from torchserve_lite.protocols.http.routing import Routes, RouteTable
from torchserve_lite.protocols.http.torchserve import TorchServeRoutes
from torchserve_lite.telemetry.catalogue import ServerMetrics

log = logging.getLogger(__name__)

_KEEP_ALIVE = 75.0  # longer than the 60 s of the proxies before us, or they meet a closing connection
_LINGER = 1.0  # seconds in which clients on open connections are told to close them before we do


class HttpFrontEnd:
    """All HTTP listeners of the server. Use ``serving``; ``addresses`` then says where they really listen."""

    def __init__(
        self,
        config: HttpConfig,
        plane: DataPlane,
        manager: ModelManager,
        metrics: ServerMetrics,
        access_log: AccessLog,
    ) -> None:
        self._config = config
        self._plane = plane
        self._manager = manager
        self._metrics = metrics
        self._access_log = access_log
        self._health = Health(plane)
        self.addresses: dict[str, str] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HttpFrontEnd]:
        """Entered: all sockets are open. Left: no new connections, and requests in flight have been answered."""
        runners = [await self._listen(address, roles) for address, roles in self._listeners().items()]
        try:
            yield self
        finally:
            self._health.stopping = True
            await asyncio.gather(*(site.stop() for runner in runners for site in list(runner.sites)))
            await self._let_clients_go(runners)
            await asyncio.gather(*(runner.cleanup() for runner in runners))
            self._access_log.flush()

    def _listeners(self) -> Mapping[Address, list[str]]:
        """Roles by address: equal addresses are one listener, as in the KServe set-up."""
        config = self._config
        roles: dict[Address, list[str]] = {}
        for role, address in (("inference", config.inference), ("management", config.management)):
            roles.setdefault(address, []).append(role)
        if config.enable_metrics_api:
            roles.setdefault(config.metrics, []).append("metrics")
        return roles

    async def _listen(self, address: Address, roles: list[str]) -> web.AppRunner:
        app = web.Application()
        table = RouteTable(Exchange(self._config, self._health, self._metrics, self._access_log).answer)
        for routes in self._routes(roles):
            routes.add_to(table)
        table.fill(app)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a client that goes away cancels its request
            auto_decompress=False,  # handlers get compressed bodies as they came; unpacking them here invites bombs
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=self._config.shutdown_grace,
        )
        await runner.setup()
        site = _site(runner, address)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigurationError(
                f"{roles[0]}_address={address} cannot be used: {error.strerror or error}"
            ) from error
        for role in roles:
            self.addresses[role] = _real_address(runner, address)
        return runner

    def _routes(self, roles: list[str]) -> list[Routes]:
        routes: list[Routes] = []
        if "inference" in roles:
            shared = (self._plane, self._health, Bodies(self._config))
            routes += [TorchServeRoutes(*shared), KServeV1Routes(*shared), KServeV2Routes(*shared)]
        if "management" in roles:
            routes.append(ManagementRoutes(self._manager, self._plane))
        if "metrics" in roles or ("management" in roles and "inference" in roles and self._config.enable_metrics_api):
            routes.append(MetricsRoutes(self._metrics))
        return routes

    async def _let_clients_go(self, runners: list[web.AppRunner]) -> None:
        """Nobody is let in any more, and answers carry ``Connection: close``. Clients that send something within the
        linger time leave by themselves, instead of meeting a connection that is reset under their next request."""
        deadline = asyncio.get_running_loop().time() + _LINGER
        while asyncio.get_running_loop().time() < deadline:
            if not any(runner.server is not None and runner.server.connections for runner in runners):
                return
            await asyncio.sleep(_LINGER / 20)


def _site(runner: web.AppRunner, address: Address) -> web.BaseSite:
    if address.path:
        return web.UnixSite(runner, address.path)
    return web.TCPSite(runner, address.host, address.port, backlog=2048)


def _real_address(runner: web.AppRunner, address: Address) -> str:
    """With the port that the system chose, when 0 was asked for."""
    if address.path:
        return str(address)
    port = runner.addresses[-1][1]
    return str(Address(address.host, port))
