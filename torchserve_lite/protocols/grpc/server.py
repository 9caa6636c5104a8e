"""The gRPC listeners: which services stand on which port, and how they stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from torchserve_lite.config.settings import GrpcConfig
from torchserve_lite.core.models import SequenceHeaders
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.management.access import Access
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.repository import ModelRepository
from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.grpc.calls import Calls, Pace, Service
from torchserve_lite.protocols.grpc.health import HEALTH, HealthService
from torchserve_lite.protocols.grpc.inference import InferenceService
from torchserve_lite.protocols.grpc.management import ManagementService
from torchserve_lite.protocols.grpc.messages import Messages, load_messages
from torchserve_lite.protocols.grpc.oip import OpenInference
from torchserve_lite.protocols.grpc.reflection import VERSIONS, ReflectionService
from torchserve_lite.protocols.grpc.sockets import cut_off, has_clients
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.kserve import KServeRepository
from torchserve_lite.telemetry.ended_requests import RequestWatch

_INFERENCE, _MANAGEMENT, _KSERVE = "inference", "management", "kserve"
_LEAST_BETWEEN_PINGS = 5000  # milliseconds
_TIME_TO_READ = 0.1  # seconds for the last answers: when its connection ends, a client that is sending may lose them


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``linger``: seconds for which a server that stops goes on accepting calls. ``most_clients``: how many connections
    the listeners may have, of which management has a quarter; inference and KServe's port share the rest. A new one has
    ``handshake`` seconds to begin; one without a call for ``idle`` seconds is ended; after ``keep_alive`` silent ones
    the client is asked whether it is there, and has ``patience`` seconds to say so. ``slow_client_seconds`` and
    ``slow_client_rate``: as of ``HttpConfig``, for clients that answers are streamed to."""

    max_request_size: int
    max_response_size: int
    linger: float
    most_clients: int
    handshake: float
    slow_client_seconds: float = 30.0
    slow_client_rate: float = 500.0
    idle: float = 300.0
    keep_alive: float = 60.0
    patience: float = 20.0


@dataclass(frozen=True, slots=True)
class _Listener:
    host: str
    port: int
    roles: Sequence[str]
    max_age: float | None
    max_age_grace: float | None


class GrpcFrontEnd:
    """The gRPC listeners of the server. Use ``serving``; ``addresses`` then says where they really listen."""

    def __init__(
        self,
        config: GrpcConfig,
        limits: Limits,
        plane: DataPlane,
        manager: ModelManager,
        access_log: AccessLog,
        shutdown: Shutdown,
        *,
        access: Access,
        certificates: Certificates,
        sequence_headers: SequenceHeaders,
        watch: RequestWatch | None = None,
    ) -> None:
        """``certificates``: for ``config.tls``. ``watch`` is told which requests are over."""
        self._config = config
        self._limits = limits
        self._plane = plane
        self._manager = manager
        self._access_log = access_log
        self._shutdown = shutdown
        self._access = access
        self._certificates = certificates
        self._sequence_headers = sequence_headers
        self._watch = watch or RequestWatch()
        self._health = Health(plane)
        self._stopping = asyncio.Event()
        self._servers: list[grpc.aio.Server] = []
        self._calls: list[Calls] = []
        self._ports: list[int] = []
        self.addresses: dict[str, str] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[GrpcFrontEnd]:
        """Entered: the ports of inference and management are open. Left: no new calls, and those that had begun have
        been answered.

        It begins to stop with the server, whoever is left first: HTTP drains at the same time.
        """
        messages = load_messages()
        async with AsyncExitStack() as stack:
            for listener in self._listeners():
                server = await self._open(listener, messages)
                stack.push_async_callback(server.stop, None)  # where opening the next one fails
            stopping = asyncio.create_task(self._stop_with_the_server())
            try:
                yield self
            finally:
                self._shutdown.begin()
                await stopping
                self._access_log.flush()

    async def open_for_kserve(self) -> None:
        """Also listens where KServe sends gRPC calls, until ``serving`` is left. ConfigurationError when that cannot
        be."""
        host, port = self._config.kserve_host, self._config.kserve_port
        if port is not None:
            await self._open(_Listener(host, port, (_KSERVE,), None, None), load_messages())

    async def _open(self, listener: _Listener, messages: Messages) -> grpc.aio.Server:
        server = self._make_server(listener, messages)
        await self._open_port(server, listener)
        await server.start()
        self._servers.append(server)
        return server

    async def _stop_with_the_server(self) -> None:
        """Not ready any more; still accepting, while load balancers learn of it; then what has begun is finished before
        the deadline of the stop, and all connections are closed."""
        await self._shutdown.begun.wait()
        self._health.stopping = True
        await asyncio.sleep(min(self._limits.linger, self._shutdown.remaining()))
        self._stopping.set()
        await asyncio.gather(*(calls.end(self._shutdown.remaining) for calls in self._calls))
        if has_clients(self._ports):
            await asyncio.sleep(min(_TIME_TO_READ, self._shutdown.remaining()))
        cut_off(self._ports)
        await asyncio.gather(*(server.stop(None) for server in self._servers))

    def _listeners(self) -> Sequence[_Listener]:
        """One for both when they have the same address."""
        config = self._config
        inference = _Listener(
            config.inference_host,
            config.inference_port,
            (_INFERENCE,),
            config.inference_max_age,
            config.inference_max_age_grace,
        )
        management = _Listener(
            config.management_host,
            config.management_port,
            (_MANAGEMENT,),
            config.management_max_age,
            config.management_max_age_grace,
        )
        if inference.port and (inference.host, inference.port) == (management.host, management.port):
            both = (_INFERENCE, _MANAGEMENT)
            return (_Listener(inference.host, inference.port, both, inference.max_age, inference.max_age_grace),)
        return inference, management

    def _make_server(self, listener: _Listener, messages: Messages) -> grpc.aio.Server:
        limits = self._limits
        of_management = max(1, limits.most_clients // 4)
        of_kserve = 0 if self._config.kserve_port is None else max(1, (limits.most_clients - of_management) // 2)
        of_inference = max(1, limits.most_clients - of_management - of_kserve)
        shares = {_INFERENCE: of_inference, _MANAGEMENT: of_management, _KSERVE: of_kserve}
        options: list[tuple[str, int]] = [
            ("grpc.so_reuseport", 0),  # two servers on one port would each get some of the calls
            ("grpc.max_receive_message_length", limits.max_request_size),
            ("grpc.max_send_message_length", -1),  # workers' answers are bounded by max_response_size
            ("grpc.max_allowed_incoming_connections", sum(shares[role] for role in listener.roles)),
            ("grpc.server_handshake_timeout_ms", round(limits.handshake * 1000)),
            ("grpc.max_connection_idle_ms", round(limits.idle * 1000)),
            ("grpc.keepalive_time_ms", round(limits.keep_alive * 1000)),
            ("grpc.keepalive_timeout_ms", round(limits.patience * 1000)),
            ("grpc.http2.ping_timeout_ms", round(limits.patience * 1000)),  # else that counts, which is a minute
            ("grpc.http2.max_pings_without_data", 0),  # any number: a handler may take its time
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients may ask us as often; by default they are cut off who do so more than once in five minutes
            ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_BETWEEN_PINGS),
        ]
        if listener.max_age is not None:
            options.append(("grpc.max_connection_age_ms", round(listener.max_age * 1000)))
        if listener.max_age_grace is not None:
            options.append(("grpc.max_connection_age_grace_ms", round(listener.max_age_grace * 1000)))
        server = grpc.aio.server(options=options)
        shared = len(listener.roles) > 1
        pace = Pace(limits.slow_client_seconds, limits.slow_client_rate)
        calls = Calls(messages, self._access, self._access_log, self._stopping, pace, self._watch, shared=shared)
        self._calls.append(calls)
        services = self._services(listener.roles, messages)
        server.add_generic_rpc_handlers(tuple(calls.handlers(service) for service in services))
        return server

    def _services(self, roles: Sequence[str], messages: Messages) -> Sequence[Service]:
        services = []
        if _INFERENCE in roles or _KSERVE in roles:
            limit = self._limits.max_response_size
            services.append(
                InferenceService(self._plane, self._health, messages, limit, self._sequence_headers).service
            )
            repository = KServeRepository(self._plane, ModelRepository(self._manager), self._access)
            services += OpenInference(self._plane, self._health, repository, messages).services
        if _MANAGEMENT in roles:
            services.append(ManagementService(self._manager, self._plane, self._access, messages).service)
        names = [service.name for service in services]
        services.append(HealthService(self._health, messages, names).service)
        names = [*names, HEALTH, *(f"{package}.ServerReflection" for package in VERSIONS)]
        services += [ReflectionService(package, messages, names).service for package in VERSIONS]
        return services

    async def _open_port(self, server: grpc.aio.Server, listener: _Listener) -> None:
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        address = f"{host}:{listener.port}"
        try:
            await asyncio.to_thread(_check_free, listener)
            if self._config.tls:
                port = server.add_secure_port(address, self._credentials())
            else:
                port = server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            role, why = listener.roles[0], getattr(error, "strerror", None) or str(error)
            setting = f"grpc_{role}_port={listener.port} of grpc_{role}_address={listener.host}"
            if role == _KSERVE:
                setting = f"kserve_grpc_port={listener.port} of host {listener.host}"
            raise ConfigurationError(f"{setting} cannot be used: {why}") from error
        self._ports.append(port)
        for role in listener.roles:
            self.addresses[role] = f"{'grpcs' if self._config.tls else 'grpc'}://{host}:{port}"

    def _credentials(self) -> grpc.ServerCredentials:
        """Asked for anew at each handshake, in a thread of gRPC's, since files may be replaced."""
        certificates = self._certificates
        shown = certificates.identity

        def configuration() -> grpc.ServerCertificateConfiguration:
            identity = certificates.identity
            return grpc.ssl_server_certificate_configuration(
                [(identity.key, identity.chain)], root_certificates=certificates.authorities
            )

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            if certificates.identity is shown:
                return None
            shown = certificates.identity
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(),
            renewed,  # type: ignore[arg-type]  # None means the one before, which its stubs do not know
            require_client_authentication=certificates.authorities is not None,
        )


def _check_free(listener: _Listener) -> None:
    """Raises an OSError that says why the port cannot be had: gRPC itself writes that to standard error only."""
    found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
