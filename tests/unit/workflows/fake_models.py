"""Models that load and answer as a test says, and workflows over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from torchserve_lite.archive.store import Archive
from torchserve_lite.config.settings import DownloadConfig
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import LoadFailed, ModelNotFound
from torchserve_lite.management.fetching import ArchiveFetcher
from torchserve_lite.workflows.archive import WorkflowStore
from torchserve_lite.workflows.manager import WorkflowManager
from torchserve_lite.workflows.runner import WorkflowRunner

_PATIENCE = 30  # seconds; a bound on waiting for what never comes when something is broken


class FakeModels:
    """``failing``: names that cannot be loaded. While ``gate`` is not set, no model is loaded and none answers."""

    def __init__(self) -> None:
        self.options: dict[str, ServingOptions] = {}
        self.archives: dict[str, Archive | None] = {}
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = asyncio.Event()
        self.both = asyncio.Event()

    async def register(self, options: ServingOptions, *, archive: Archive | None = None) -> object:
        self.busy.set()
        await asyncio.wait_for(self.gate.wait(), _PATIENCE)
        assert options.name is not None
        if options.name in self.failing:
            raise LoadFailed("planted")
        self.options[options.name], self.archives[options.name] = options, archive
        if len(self.options) == 2:
            self.both.set()
        return None

    async def unregister(self, name: str, version: str | None = None) -> None:
        if name not in self.options:
            raise ModelNotFound(name)
        del self.options[name]

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        self.busy.set()
        await asyncio.wait_for(self.gate.wait(), _PATIENCE)
        return InferenceResponse(b"answer")


@asynccontextmanager
async def workflows(
    tmp_path: Path, models: FakeModels, downloads: DownloadConfig | None = None
) -> AsyncIterator[WorkflowManager]:
    plane: Any = models
    store = WorkflowStore(folder=tmp_path, scratch=tmp_path / "scratch")
    async with WorkflowManager(
        models, ArchiveFetcher(store, downloads), WorkflowRunner(plane, max_response_size=1000), drain_timeout=60
    ) as manager:
        yield manager
