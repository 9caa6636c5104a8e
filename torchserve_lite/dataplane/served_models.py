"""What is served, and what of it is ready: the answers to probes and lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.dataplane.interface import ModelSummary, Readiness
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import (
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRegistered,
    NoWorkers,
    ServingError,
    Unavailable,
    WorkerRestarting,
)
from torchserve_lite.management.registry import ModelRegistry


class ServedModels:
    """``failed_models``: names that could not be registered, and why. ``opening``: whether some have not been looked at
    yet."""

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        failed_models: Callable[[], dict[str, str]],
        opening: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._failed_models = failed_models
        self._opening = opening

    def readiness(self, name: str, version: str | None) -> Readiness:
        try:
            key = self.resolve(name, version).key
        except ModelNotRegistered as error:
            return Readiness(models={name: error})
        cause = self.unreadiness(key)
        return Readiness(models={} if cause is None else {name: cause})

    def models(self) -> Sequence[ModelSummary]:
        return [
            ModelSummary(
                name=name,
                versions=tuple(spec.key.version for spec in self._registry.versions(name)),
                loaded_at_startup=any(spec.loaded_at_startup for spec in self._registry.versions(name)),
            )
            for name in self._registry.names()
        ]

    def server_ready(self) -> Readiness:
        failed = self._failed_models()
        causes: dict[str, ServingError] = {name: ModelNotRegistered(name, why) for name, why in failed.items()}
        for spec in self._registry.defaults():
            error = self.unreadiness(spec.key, every_worker=True)
            if error is not None and not isinstance(error, NoWorkers):
                causes.setdefault(spec.key.name, error)
        opening = Unavailable("The server is still opening archives.") if self._opening() else None
        return Readiness(models=causes, server=opening)

    def resolve(self, name: str, version: str | None) -> ModelSpec:
        try:
            return self._registry.resolve(name, version)
        except ModelNotFound:
            cause = self._failed_models().get(name)
            if cause is None:
                raise
            raise ModelNotRegistered(name, cause) from None

    def unreadiness(self, key: ModelKey, *, every_worker: bool = False) -> ServingError | None:
        """What keeps a registered model from being served, or from having every worker it should have."""
        status = self._engine.status(key)
        if status.failed:
            return ModelFailed(key.name, status.last_failure)
        if not status.begun:
            failure = self._failed_models().get(key.name)
            return ModelLoading(key.name) if failure is None else ModelNotRegistered(key.name, failure)
        if status.wanted == 0:
            return NoWorkers(key.name)
        if status.ready_workers >= (status.wanted if every_worker else 1):
            return None
        return WorkerRestarting(key.name, status.last_failure) if status.last_failure else ModelLoading(key.name)
