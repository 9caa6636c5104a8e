"""The record of one served model version: all that management knows of it, in one place."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field

from torchserve_lite.archive.dependencies import Environment
from torchserve_lite.archive.store import Archive
from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.errors import ModelLoading, ModelNotRegistered, ServingError
from torchserve_lite.management.autoscaling import Seen


class DeploymentState(enum.StrEnum):
    """What management is doing with a version. How its workers fare is in the engine's ``ModelStatus``."""

    OPENING = "opening"  # its archive is being read; its version is not known yet
    LOADING = "loading"
    SERVING = "serving"  # it has been handed to the engine, which goes on trying when its workers fail
    FAILED = "failed"  # nobody tries again: see ``failure``
    DRAINING = "draining"  # it is no longer asked; what was accepted is still answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a version is served from: one opened archive, and what was asked for beside it."""

    spec: ModelSpec
    options: ServingOptions
    archive: Archive
    environment: Environment | None = None

    @property
    def files(self) -> ModelFiles:
        if self.environment is None:
            return ModelFiles(str(self.archive.path))
        return ModelFiles(str(self.archive.path), self.environment.python, self.environment.python_path)

    def close(self) -> None:
        self.archive.close()


@dataclass(slots=True, kw_only=True, eq=False)
class Deployment:
    """``options``: as asked for, before the archive has been read. ``previous``: what was served before the last
    update, for a rollback. ``candidate``: what is being loaded to take over.

    Whoever changes it holds the ``lock``; ``work`` is the task that does. The bounds are those of the last call that
    set them.
    """

    name: str
    options: ServingOptions
    revision: Revision | None = None
    previous: Revision | None = None
    candidate: Revision | None = None
    was: ModelSpec | None = None  # of a revision that has been taken out: calls that end meanwhile still tell of it
    min_workers: int = 0
    max_workers: int = 0
    state: DeploymentState = DeploymentState.OPENING
    failure: ServingError | None = None
    seen: Seen | None = None  # of its load, by autoscaling
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    work: asyncio.Task[None] | None = None

    @property
    def spec(self) -> ModelSpec:
        """What is served, or was. ModelLoading while its archive is opened, ModelNotRegistered when that failed."""
        found = self.was if self.revision is None else self.revision.spec
        if found is None:
            raise self.refusal()
        return found

    @property
    def key(self) -> ModelKey:
        return self.spec.key

    @property
    def initial_workers(self) -> int:
        """How many it begins with: as few as may be, or as many as a snapshot has seen."""
        asked = self.shown_options.workers
        return min(max(self.min_workers if asked is None else asked, self.min_workers), self.max_workers)

    @property
    def shown_options(self) -> ServingOptions:
        """As asked for, by whom it was registered or last updated."""
        return self.options if self.revision is None else self.revision.options

    def take_revision(self) -> Revision | None:
        """For whoever keeps or removes its files from now on."""
        taken, self.revision = self.revision, None
        self.was = taken.spec if taken is not None else self.was
        return taken

    @property
    def revisions(self) -> tuple[Revision, ...]:
        found = (self.revision, self.candidate, self.previous)
        return tuple(revision for revision in found if revision is not None)

    @property
    def workflow(self) -> str:
        """The workflow that it is a node of, also after an update; "" for a model of its own."""
        return self.options.workflow

    @property
    def is_draining(self) -> bool:
        return self.state is DeploymentState.DRAINING

    def failed(self, error: ServingError) -> None:
        self.state, self.failure = DeploymentState.FAILED, error

    def refusal(self) -> ServingError:
        """Why it cannot be asked, as long as the engine does not know it."""
        if self.state is DeploymentState.FAILED:
            return ModelNotRegistered(self.name, str(self.failure))
        return ModelLoading(self.name)

    def close(self) -> None:
        """Removes what it had unpacked."""
        for revision in self.revisions:
            revision.close()
        self.revision = self.previous = self.candidate = None
