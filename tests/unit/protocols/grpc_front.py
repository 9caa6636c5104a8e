"""The gRPC front end on real ports, before an engine without workers, with a client and its HTTP twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from torchserve_lite.config.settings import GrpcConfig, TlsConfig
from torchserve_lite.core.models import SequenceHeaders
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.management.access import Access
from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.grpc.messages import Messages, load_messages
from torchserve_lite.protocols.grpc.server import GrpcFrontEnd, Limits

from .conftest import LIMIT, Front, listening

INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"


class GrpcClient:
    """Calls by names, with messages as a client generated from ``protos/`` has them."""

    def __init__(self, messages: Messages, channel: grpc.aio.Channel) -> None:
        self.messages = messages
        self.channel = channel

    def call(self, service: str, method: str) -> Any:
        """What a stub has for this method."""
        described = self.messages.pool.FindServiceByName(service).FindMethodByName(method)
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, True): self.channel.stream_stream,
        }
        make: Any = kinds[(described.client_streaming, described.server_streaming)]
        return make(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self.messages.named(described.output_type.full_name).FromString,
        )

    def message(self, service: str, method: str, /, **fields: Any) -> Any:
        described = self.messages.pool.FindServiceByName(service).FindMethodByName(method)
        return self.messages.named(described.input_type.full_name)(**fields)


class GrpcFront:
    """``http`` is the same server's HTTP; ``inference`` and ``management`` are clients of its gRPC."""

    def __init__(self, http: Front, grpc_front: GrpcFrontEnd, shutdown: Shutdown, messages: Messages) -> None:
        self.http = http
        self.engine = http.engine
        self.front = grpc_front
        self.shutdown = shutdown
        self.messages = messages
        self.certificates: Certificates
        self.inference: GrpcClient
        self.management: GrpcClient

    def client(self, role: str, credentials: grpc.ChannelCredentials | None = None) -> GrpcClient:
        target = self.front.addresses[role].partition("://")[2]
        options: Sequence[tuple[str, int]] = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            return GrpcClient(self.messages, grpc.aio.insecure_channel(target, options=options))
        return GrpcClient(self.messages, grpc.aio.secure_channel(target, credentials, options=options))

    async def infer(self, method: str, **facts: Any) -> Any:
        """A method of the inference service that takes one request and gives one answer."""
        how = {name: facts.pop(name) for name in ("timeout", "metadata") if name in facts}
        service = f"{INFERENCE}.InferenceAPIsService"
        request = self.inference.message(service, method, **facts)
        return await self.inference.call(service, method)(request, **how)

    async def manage(self, method: str, **facts: Any) -> str:
        """What a method of the management service says."""
        how = {name: facts.pop(name) for name in ("timeout", "metadata") if name in facts}
        service = f"{MANAGEMENT}.ManagementAPIsService"
        request = self.management.message(service, method, **facts)
        msg: str = (await self.management.call(service, method)(request, **how)).msg
        return msg


@asynccontextmanager
async def serving_grpc(
    *,
    access: Access | None = None,
    config: GrpcConfig | None = None,
    tls: TlsConfig | None = None,
    grace: float = 25.0,
    **limits: Any,
) -> AsyncIterator[GrpcFront]:
    """``limits``: in place of those that no test meets."""
    config = config or GrpcConfig(inference_port=0, management_port=0)
    shutdown = Shutdown(grace)
    sizes = {"max_request_size": LIMIT, "max_response_size": LIMIT}
    facts = {**sizes, "linger": 0.0, "most_clients": 100, "handshake": 30.0, **limits}
    certificates = Certificates(tls or TlsConfig(), config.encrypted_hosts)
    async with listening(access=access) as http, certificates.kept_fresh():
        manager: Any = http.manager
        front = GrpcFrontEnd(
            config,
            Limits(**facts),
            http.plane,
            manager,
            http.access_log,
            shutdown,
            access=http.access,
            certificates=certificates,
            sequence_headers=SequenceHeaders(),
            watch=http.watch,
        )
        async with front.serving():
            made = GrpcFront(http, front, shutdown, load_messages())
            made.certificates = certificates
            made.inference, made.management = made.client("inference"), made.client("management")
            try:
                yield made
            finally:
                await asyncio.gather(made.inference.channel.close(), made.management.channel.close())
