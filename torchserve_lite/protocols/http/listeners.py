"""The HTTP listeners: which routes stand on which address, and how they stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web

from torchserve_lite.config.console import why_closed
from torchserve_lite.config.settings import Address, HttpConfig
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.management.access import Access
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.repository import ModelRepository
from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.api_description import ApiDescriptionRoutes
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.cloud_events import CloudEvents
from torchserve_lite.protocols.http.connections import AiohttpConnection, Client, Clients, SlowReaders, stop_accepting
from torchserve_lite.protocols.http.console import ConsoleRoutes
from torchserve_lite.protocols.http.console_feed import ConsoleFeed
from torchserve_lite.protocols.http.exchange import Exchange
from torchserve_lite.protocols.http.fast_path import Connection, Front
from torchserve_lite.protocols.http.guard import KSERVE, Guard
from torchserve_lite.protocols.http.kserve_repository import KServeRepositoryRoutes
from torchserve_lite.protocols.http.kserve_v1 import KServeV1ReadinessRoutes, KServeV1Routes
from torchserve_lite.protocols.http.kserve_v2 import KServeV2Routes
from torchserve_lite.protocols.http.log_levels import LogLevelRoutes
from torchserve_lite.protocols.http.management import ManagementRoutes, MetricsRoutes
from torchserve_lite.protocols.http.openai import OpenAIRoutes
from torchserve_lite.protocols.http.plain import PlainHeads
from torchserve_lite.protocols.http.refusals import Refusals
from torchserve_lite.protocols.http.routing import Routes, RouteTable
from torchserve_lite.protocols.http.sagemaker import SageMakerRoutes
from torchserve_lite.protocols.http.tls import Handshake, Handshakes
from torchserve_lite.protocols.http.tokens import TokenRoutes
from torchserve_lite.protocols.http.torchserve import TorchServeRoutes
from torchserve_lite.protocols.http.unix_sockets import SocketFile, bind_unix_socket
from torchserve_lite.protocols.http.workflows import WorkflowInferenceRoutes, WorkflowManagementRoutes
from torchserve_lite.protocols.kserve import KServeRepository
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import RequestWatch
from torchserve_lite.workflows.manager import WorkflowManager

log = logging.getLogger(__name__)

_KEEP_ALIVE = 75.0  # longer than the 60 s of the proxies before us, or they meet a closing connection
_NEVER = 365.0 * 24 * 60 * 60  # seconds
_BACKLOG = 2048
_LOOK_AGAIN = 0.02  # seconds between two looks at what is still to be answered


Connect = Callable[[], Connection | Handshake]


class HttpFrontEnd:
    """All HTTP listeners of the server. Use ``serving``; ``addresses`` then says where they really listen."""

    def __init__(
        self,
        config: HttpConfig,
        plane: DataPlane,
        manager: ModelManager,
        metrics: ServerMetrics,
        access_log: AccessLog,
        shutdown: Shutdown,
        *,
        access: Access,
        most_clients: int,
        workflows: WorkflowManager | None = None,
        certificates: Certificates | None = None,
        watch: RequestWatch | None = None,
        console: ConsoleFeed | None = None,
    ) -> None:
        """``most_clients``: how many connections may be open at once. ``certificates``: for https:// addresses.
        ``watch`` is told which requests are over. ``console``: None where it is closed."""
        self._config = config
        self._plane = plane
        self._manager = manager
        self._workflows = workflows
        self._metrics = metrics
        self._access_log = access_log
        self._shutdown = shutdown
        self._access = access
        self._certificates = certificates
        self._watch = watch
        self._console = console
        self._health = Health(plane)
        self._clients = Clients(most_clients, _KEEP_ALIVE)
        self._listening = AsyncExitStack()
        self._listeners: list[Listener] = []
        self.addresses: dict[str, str] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HttpFrontEnd]:
        """Entered: all sockets are open. Left: no new connections, and requests that had begun have been answered."""
        async with self._listening:
            for address, roles in self._roles().items():
                await self._open(address, roles)
            # No TaskGroup: it would wrap whatever is raised while the server runs
            watching = [
                asyncio.create_task(SlowReaders(self._config).watch(self._clients.open)),
                asyncio.create_task(self._clients.watch()),
            ]
            try:
                yield self
            finally:
                await self._stop(self._listeners)
                for client in list(self._clients.open):
                    client.close()
                for task in watching:
                    task.cancel()
                self._access_log.flush()

    async def open_for_kserve(self) -> None:
        """Also listens where KServe sends requests, until ``serving`` is left. ConfigurationError when that cannot be.

        By the task that has entered ``serving``, since it closes in that one what is opened here.
        """
        if self._config.kserve is not None and self._config.kserve not in self._roles():
            await self._open(self._config.kserve, [KSERVE])

    async def _open(self, address: Address, roles: list[str]) -> None:
        self._listeners.append(await self._listening.enter_async_context(self._listener(address, roles)))

    async def _stop(self, listeners: Sequence[Listener]) -> None:
        """Not ready any more; still accepting, while load balancers learn of it; then no new connections, and what has
        begun is finished; all before the deadline of the stop, at which connections are cut.

        A client that connected and has sent nothing yet gets the linger time once more. Neither aiohttp nor asyncio
        tells when the last exchange or connection ends, so both are looked at again and again; at least twice, because
        what aiohttp has read begins some turns of the loop later.
        """
        self._shutdown.begin()
        self._health.stopping = True
        await asyncio.sleep(min(self._config.shutdown_linger, self._shutdown.remaining()))
        for listener in listeners:
            if listener.file is not None:
                listener.file.remove()
        await asyncio.gather(*(stop_accepting(listener.socket, listener.connect) for listener in listeners))
        loop = asyncio.get_running_loop()
        silent_until = loop.time() + self._config.shutdown_linger
        was_quiet = False
        while self._shutdown.remaining():
            clients = self._clients.open
            unsent = any(client.unsent for client in clients)
            silent = loop.time() < silent_until and not all(c.asked for c in clients)
            quiet = not unsent and not silent and not any(listener.exchange.in_progress for listener in listeners)
            if quiet and was_quiet:
                return
            was_quiet = quiet
            await asyncio.sleep(_LOOK_AGAIN)
        for client in list(self._clients.open):
            client.cut()

    def _roles(self) -> Mapping[Address, list[str]]:
        """Roles by address: equal addresses are one listener, as in the KServe set-up."""
        config = self._config
        roles: dict[Address, list[str]] = {}
        for role, address in (("inference", config.inference), ("management", config.management)):
            roles.setdefault(address, []).append(role)
        if config.enable_metrics_api:
            roles.setdefault(config.metrics, []).append("metrics")
        return roles

    @asynccontextmanager
    async def _listener(self, address: Address, roles: list[str]) -> AsyncIterator[Listener]:
        exchange = Exchange(self._config, self._health, self._metrics, self._access_log, self._clients, self._watch)
        app = web.Application()
        guard = Guard(self._access, self._config, address, roles)
        table = RouteTable(exchange.answer, guard)
        for routes in self._routes(roles):
            routes.add_to(table)
        table.fill(app)
        runner = web.AppRunner(
            app,
            handler_cancellation=True,  # a client that goes away cancels its request
            shutdown_timeout=_LOOK_AGAIN,  # by then, whoever was to be waited for has been
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            front = self._front(runner, exchange, guard, table)
            connect: Connect = partial(Connection, front)
            if address.tls:
                assert self._certificates is not None
                handshakes = Handshakes(self._certificates, front, self._config.slow_header_seconds)
                await stack.enter_async_context(handshakes)
                connect = partial(Handshake, handshakes)
            socket, file = await self._open_socket(address, roles[0], connect)
            stack.callback(socket.close)
            if file is not None:
                stack.callback(file.remove)
            for role in roles:
                self.addresses[role] = _real_address(socket, address)
            yield Listener(socket, exchange, connect, file)

    async def _open_socket(
        self, address: Address, role: str, connect: Connect
    ) -> tuple[asyncio.Server, SocketFile | None]:
        """Not aiohttp's sites, because these connections are ours."""
        loop = asyncio.get_running_loop()
        try:
            if address.path:
                bound, file = bind_unix_socket(address.path, self._config.unix_socket_mode)
                return await loop.create_unix_server(connect, sock=bound, backlog=_BACKLOG), file
            return await loop.create_server(connect, address.host, address.port, backlog=_BACKLOG), None
        except OSError as error:
            message = f"{role}_address={address} cannot be used: {error.strerror or error}"
            raise ConfigurationError(message) from error

    def _front(self, runner: web.AppRunner, exchange: Exchange, guard: Guard, table: RouteTable) -> Front:
        loop = asyncio.get_running_loop()
        refusals = Refusals(self._config, self._metrics, table.description)
        server = runner.server
        assert server is not None

        def speak_aiohttp(client: Client) -> AiohttpConnection:
            return AiohttpConnection(
                server,
                refusals,
                client,
                self._config.slow_header_seconds,
                loop=loop,
                access_log=None,
                auto_decompress=False,  # handlers get compressed bodies as they came; unpacking them here invites bombs
                keepalive_timeout=_NEVER,  # idle clients are closed by Clients, which knows of both ways
            )

        heads = PlainHeads(table.plain if self._config.fast_path else (), self._config.max_request_size)
        return Front(self._clients, refusals, exchange, self._plane, heads, guard, speak_aiohttp)

    def _routes(self, roles: list[str]) -> list[Routes]:
        routes: list[Routes] = []
        if "inference" in roles or KSERVE in roles:
            shared = (self._plane, self._health, Bodies(self._config))
            routes.append(TorchServeRoutes(*shared))
            if self._workflows is not None:
                routes.append(WorkflowInferenceRoutes(self._workflows, Bodies(self._config)))
            routes.append(SageMakerRoutes(*shared))
            repository = KServeRepository(self._plane, ModelRepository(self._manager), self._access)
            routes += [
                KServeRepositoryRoutes(repository, Bodies(self._config)),
                KServeV1Routes(*shared, CloudEvents(self._config)),
                KServeV2Routes(*shared, CloudEvents(self._config)),
                OpenAIRoutes(self._plane, Bodies(self._config)),
            ]
        if "management" in roles:
            if "inference" not in roles:
                routes.append(KServeV1ReadinessRoutes(self._health))
            routes.append(ManagementRoutes(self._manager, self._plane, Bodies(self._config), self._access))
            routes.append(LogLevelRoutes(Bodies(self._config)))
            if self._workflows is not None:
                routes.append(WorkflowManagementRoutes(self._workflows, Bodies(self._config), self._access))
            if self._access.tokens:
                routes.append(TokenRoutes(self._access))
            closed = why_closed(self._config, tokens=self._access.tokens)
            routes.append(ConsoleRoutes(self._console, self._plane, Bodies(self._config), closed))
        shares_metrics = KSERVE in roles or ("management" in roles and "inference" in roles)
        if "metrics" in roles or (shares_metrics and self._config.enable_metrics_api):
            routes.append(MetricsRoutes(self._metrics))
        routes.append(ApiDescriptionRoutes())
        return routes


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that is listened on."""

    socket: asyncio.Server
    exchange: Exchange
    connect: Connect
    file: SocketFile | None  # of a Unix socket


def _real_address(socket: asyncio.Server, address: Address) -> str:
    """With the port that the system chose, when 0 was asked for."""
    if address.path:
        return str(address)
    return str(replace(address, port=socket.sockets[0].getsockname()[1]))
