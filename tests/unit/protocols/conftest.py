"""The HTTP front end on a real socket, before an engine without workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from tests.conftest import KEY, deployment_of
from tests.fake_engine import FakeEngine
from torchserve_lite.config.settings import AccessConfig, Address, HttpConfig, MetricsConfig, TlsConfig
from torchserve_lite.core.models import ModelKey, ModelStatus
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceRequest
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.dataplane.local import LocalDataPlane
from torchserve_lite.errors import ModelNotFound
from torchserve_lite.management.access import Access
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.manager import ModelDescription
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.console_feed import ConsoleFeed
from torchserve_lite.protocols.http.listeners import HttpFrontEnd
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import RequestWatch
from torchserve_lite.telemetry.recent import Recent, SeenFailure
from torchserve_lite.workflows.manager import WorkflowManager

LIMIT = 10_000  # bytes of a request body


@dataclass(frozen=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeManager:
    """Management of one model, and of an archive in the store; ``failure`` is raised by ``scale``."""

    default_workers = 2

    def __init__(self, engine: FakeEngine, registry: ModelRegistry) -> None:
        self.engine = engine
        self.registry = registry
        self.failure: Exception | None = None
        self.registered: list[ServingOptions] = []
        self.unregistered: list[tuple[str, str | None]] = []
        self.scaled: list[tuple[str, str | None, int, int]] = []

    def list_models(self) -> list[tuple[str, str]]:
        return [(f"model-{number}", f"model-{number}.mar") for number in range(250)]

    async def describe(self, name: str, version: str | None) -> list[ModelDescription]:
        spec = self.registry.resolve(name, None if version == "all" else version).spec
        status: ModelStatus = self.engine.status(spec.key)
        return [
            ModelDescription(
                spec=spec,
                status=status,
                min_workers=1,
                max_workers=3,
                start_times=["2026-11-22T12:36:28.253Z"] * len(status.workers),
                memory=[1000] * len(status.workers),
            )
        ]

    async def archives_in_store(self) -> dict[str, str]:
        return {"tiny": "tiny.mar", "new": "new.mar"}

    async def register(
        self, wanted: ServingOptions, *, synchronous: bool = True, with_workers: bool = False
    ) -> Deployment:
        self.registered.append(wanted)
        return self.registry.resolve(KEY.name)

    async def register_pulled(self, name: str) -> Deployment:
        raise ModelNotFound(name)

    async def unregister(self, name: str, version: str | None = None) -> None:
        self.registry.resolve(name, version)
        self.unregistered.append((name, version))

    async def set_default(self, name: str, version: str) -> None:
        self.registry.set_default(name, version)

    async def update(self, name: str, version: str | None, wanted: ServingOptions) -> Deployment:
        return self.registry.resolve(name, version)

    def update_in_background(self, name: str, version: str | None, wanted: ServingOptions) -> None:
        self.registry.resolve(name, version)

    async def rollback(self, name: str, version: str | None) -> Deployment:
        return self.registry.resolve(name, version)

    def scale_in_background(self, name: str, version: str | None, low: int, high: int) -> None:
        self.registry.resolve(name, version)
        self.scaled.append((name, version, low, high))

    async def scale(self, name: str, version: str | None, low: int, high: int) -> int:
        if self.failure is not None:
            raise self.failure
        self.scaled.append((name, version, low, high))
        return low


class Front:
    """A front end that listens, with a client for it."""

    def __init__(
        self,
        config: HttpConfig,
        most_clients: int,
        access: Access | None = None,
        workflows: WorkflowManager | None = None,
        certificates: Certificates | None = None,
        *,
        with_console: bool = False,
    ) -> None:
        self.engine = FakeEngine()
        self.registry = ModelRegistry()
        for version in ("1.0", "2.0"):
            self.registry.add(deployment_of(key=ModelKey(KEY.name, version), openai=True))
        self.metrics = ServerMetrics(MetricsConfig())
        self.log: list[str] = []
        self.manager = FakeManager(self.engine, self.registry)
        self.watch = RequestWatch()
        self.plane = LocalDataPlane(self.engine, self.registry, self.metrics, self.watch)
        self.failures: Recent[SeenFailure] = Recent(10)
        self.console = ConsoleFeed(self.metrics, self.registry, self.engine.status, self.failures, self.watch)
        log = AccessLog(lambda text: self.log.extend(text.splitlines()))
        manager: Any = self.manager
        shutdown = Shutdown(config.shutdown_grace)
        self.access = access or Access(AccessConfig(tokens=False, model_api=True))
        self.http = HttpFrontEnd(
            config,
            self.plane,
            manager,
            self.metrics,
            log,
            shutdown,
            access=self.access,
            most_clients=most_clients,
            workflows=workflows,
            certificates=certificates,
            watch=self.watch,
            console=self.console if with_console else None,
        )
        self.access_log = log
        self.certificates = certificates or Certificates(TlsConfig(), ())
        self.client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.http.addresses["inference"]

    @property
    def asked(self) -> InferenceRequest:
        """The request that reached the engine."""
        (job,) = self.engine.jobs
        return job.request

    async def ask(self, method: str, path: str, **facts: Any) -> Answer:
        async with self.client.request(method, self.url + path, **facts) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, data: Any = b"7", **facts: Any) -> Answer:
        return await self.ask("POST", path, data=data, **facts)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.url.removeprefix("http://").split(":")
        return await asyncio.open_connection(host, int(port))

    async def raw(
        self,
        headers: bytes,
        body: bytes = b"",
        *,
        target: bytes = b"/predictions/tiny",
        then_leave: bool = False,
    ) -> bytes:
        """All that comes back for a POST with these header lines. ``then_leave``: no more will be sent."""
        reader, writer = await self.connect()
        head = b"POST " + target + b" HTTP/1.1\r\nhOST: x\r\nConnection: close\r\n"
        writer.write(head + headers + b"\r\n\r\n" + body)
        if then_leave:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def listening(
    *,
    most_clients: int = 1000,
    access: Access | None = None,
    workflows: WorkflowManager | None = None,
    tls: TlsConfig | None = None,
    with_console: bool = False,
    **config: Any,
) -> AsyncIterator[Front]:
    anywhere = Address(port=0)
    roles = dict.fromkeys(("inference", "management", "metrics"), anywhere)
    facts = {**roles, "max_request_size": LIMIT, "shutdown_linger": 0.0, **config}
    http = HttpConfig(**facts)
    certificates = Certificates(tls or TlsConfig(), http.encrypted_hosts)
    front = Front(http, most_clients, access, workflows, certificates, with_console=with_console)
    async with certificates.kept_fresh(), front.http.serving(), aiohttp.ClientSession(auto_decompress=False) as client:
        front.client = client
        yield front


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with listening() as made:
        yield made
