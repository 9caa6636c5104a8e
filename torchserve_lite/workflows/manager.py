"""The verbs of workflows: register, unregister, list, describe, and run one for a request."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torchserve_lite.archive.store import Archive, last_part
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import Conflict, NotFound, ServingError, WorkflowNotFound, WorkflowNotRegistered
from torchserve_lite.management.fetching import ArchiveFetcher
from torchserve_lite.workflows.archive import WorkflowArchive
from torchserve_lite.workflows.runner import WorkflowRunner, node_model
from torchserve_lite.workflows.spec import Node, WorkflowSpec

T = TypeVar("T")

log = logging.getLogger(__name__)

_DELAY = 0.05  # seconds that a batch waits, of a node that has a batch size and no delay


class Models(Protocol):
    """What workflows need of the ModelManager: every node is a model."""

    async def register(self, options: ServingOptions, *, archive: Archive | None = None) -> object:
        """Loaded when it returns. ``archive``: what to serve, instead of what ``options.url`` names."""

    async def unregister(self, name: str, version: str | None = None) -> None: ...


class WorkflowState(enum.Enum):
    REGISTERING = enum.auto()
    SERVING = enum.auto()
    DRAINING = enum.auto()


@dataclass(slots=True)
class Workflow:
    """A registered workflow. ``running``: requests in it; ``idle`` is set while there are none."""

    name: str
    archive: WorkflowArchive
    state: WorkflowState = WorkflowState.REGISTERING
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return self.archive.url

    @property
    def spec(self) -> WorkflowSpec:
        return self.archive.spec


class WorkflowManager:
    """Use as an async context manager. ``drain_timeout``: seconds for which unregistering waits for requests.

    Registrations are not kept: after a restart, as with TorchServe, workflows are registered again.
    """

    def __init__(
        self,
        models: Models,
        fetcher: ArchiveFetcher[WorkflowArchive],
        runner: WorkflowRunner,
        *,
        drain_timeout: float,
    ) -> None:
        self._models = models
        self._fetcher = fetcher
        self._runner = runner
        self._drain_timeout = drain_timeout
        self._workflows: dict[str, Workflow] = {}
        # No TaskGroup: what fails is told to the client that asked for it, and must not end the others.
        self._changes: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> WorkflowManager:
        await self._fetcher.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._changes:
            task.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._fetcher.__aexit__()

    async def register(self, wanted: ServingOptions) -> Workflow:
        """Of the options: url, name, and the timeouts of all nodes. The nodes are loaded when it returns; when one
        cannot be, none is kept. A client that goes away does not stop it half way."""
        return await self._to_the_end(self._register(wanted))

    async def unregister(self, name: str) -> None:
        """New requests are refused at once; those that run are finished first."""
        workflow = self.find(name)
        workflow.state = WorkflowState.DRAINING
        await self._to_the_end(self._unregister(workflow))

    async def run(self, request: InferenceRequest) -> InferenceResponse:
        """``request.model`` is the workflow."""
        workflow = self.find(request.model)
        workflow.running += 1
        workflow.idle.clear()
        try:
            return await self._runner.run(workflow.spec, request)
        finally:
            workflow.running -= 1
            if not workflow.running:
                workflow.idle.set()

    def find(self, name: str) -> Workflow:
        workflow = self._workflows.get(name)
        if workflow is None or workflow.state is not WorkflowState.SERVING:
            raise WorkflowNotFound(name)
        return workflow

    def list_workflows(self) -> list[Workflow]:
        """By name."""
        served = [one for one in self._workflows.values() if one.state is WorkflowState.SERVING]
        return sorted(served, key=lambda workflow: workflow.name)

    async def _to_the_end(self, change: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # also told to who asked, if still there
            log.error("%s", error, exc_info=None if isinstance(error, ServingError) else error)

    async def _register(self, wanted: ServingOptions) -> Workflow:
        archive = await self._fetcher.open(wanted.url, s3_sse_kms=wanted.s3_sse_kms)
        name = wanted.name or archive.name
        if (other := self._workflows.get(name)) is not None:
            await self._fetcher.remove(archive)
            doing = {WorkflowState.SERVING: "already registered", WorkflowState.DRAINING: "still being unregistered"}
            raise Conflict(f"Workflow {name} is {doing.get(other.state, 'being registered')}.")
        for warning in archive.spec.warnings:
            log.warning("%s: %s", last_part(archive.url), warning)
        workflow = self._workflows[name] = Workflow(name, archive)
        workflow.idle.set()
        try:
            await self._register_nodes(workflow, wanted)
        except BaseException:
            del self._workflows[name]
            await self._fetcher.remove(archive)
            raise
        workflow.state = WorkflowState.SERVING
        log.info("Workflow %s is registered: %s", name, archive.spec.dag)
        return workflow

    async def _register_nodes(self, workflow: Workflow, wanted: ServingOptions) -> None:
        """All of them, or none."""
        nodes = list(workflow.spec.nodes.values())
        registering = [
            self._models.register(
                _node_options(workflow.name, node, wanted),
                archive=None if node.url else workflow.archive.function(node.name),
            )
            for node in nodes
        ]
        outcomes = await asyncio.gather(*registering, return_exceptions=True)
        failed = [
            (node.name, outcome)
            for node, outcome in zip(nodes, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]
        if not failed:
            return
        failures = dict(failed)
        await self._unregister_nodes(workflow.name, [node.name for node in nodes if node.name not in failures])
        raise WorkflowNotRegistered(workflow.name, [f"{name}: {error}" for name, error in failed])

    async def _unregister(self, workflow: Workflow) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(workflow.idle.wait(), self._drain_timeout)
        try:
            await self._unregister_nodes(workflow.name, list(workflow.spec.nodes))
        finally:
            del self._workflows[workflow.name]
            await self._fetcher.remove(workflow.archive)
        log.info("Workflow %s is unregistered.", workflow.name)

    async def _unregister_nodes(self, workflow: str, nodes: list[str]) -> None:
        """One that somebody has unregistered by its own name is gone already."""
        unregistering = (self._models.unregister(node_model(workflow, node)) for node in nodes)
        for outcome in await asyncio.gather(*unregistering, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound):
                raise outcome


def _node_options(workflow: str, node: Node, wanted: ServingOptions) -> ServingOptions:
    """As many workers as it may have at most, as in TorchServe. A function gets its requests one by one."""
    settings = node.settings
    _, workers = settings.workers
    delay = settings.batch_delay
    if settings.batch_size is not None and delay is None:
        delay = _DELAY
    return ServingOptions(
        url=node.url,
        name=node_model(workflow, node.name),
        workflow=workflow,
        min_workers=workers,
        max_workers=workers,
        batch_size=settings.batch_size if node.url else 1,
        batch_delay=delay if node.url else 0.0,
        response_timeout=wanted.response_timeout,
        startup_timeout=wanted.startup_timeout,
    )
