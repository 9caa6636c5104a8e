"""What is served, and what of it is ready: the answers to probes and lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torchserve_lite.core.models import ModelSpec, Signature
from torchserve_lite.dataplane.interface import ModelMetadata, ModelSummary, Readiness
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import (
    ModelFailed,
    ModelLoading,
    ModelNotRegistered,
    NoWorkers,
    ServingError,
    Unavailable,
    WorkerRestarting,
)
from torchserve_lite.management.deployments import Deployment, DeploymentState
from torchserve_lite.management.registry import ModelRegistry


class ServedModels:
    def __init__(self, engine: Engine, registry: ModelRegistry) -> None:
        self._engine = engine
        self._registry = registry

    def readiness(self, name: str, version: str | None) -> Readiness:
        try:
            cause = self.unreadiness(self._registry.resolve(name, version))
        except ModelNotRegistered as error:
            cause = error
        return Readiness(models={} if cause is None else {name: cause})

    def metadata(self, name: str, version: str | None) -> ModelMetadata:
        deployment = self._registry.resolve(name, version)
        versions = (version,) if version else tuple(one.key.version for one in self._registry.versions(name))
        signature = deployment.spec.signature if deployment.revision is not None else None
        return ModelMetadata(versions=versions, signature=signature or Signature())

    def models(self) -> Sequence[ModelSummary]:
        summaries = []
        for default in self._registry.defaults():
            name = default.key.name
            specs = [deployment.spec for deployment in self._registry.versions(name)]
            summary = ModelSummary(
                name=name,
                versions=tuple(spec.key.version for spec in specs),
                loaded_at_startup=any(spec.loaded_at_startup for spec in specs),
                openai=_openai_names(default.spec),
            )
            summaries.append(summary)
        return summaries

    def server_ready(self) -> Readiness:
        causes: dict[str, ServingError] = {}
        for deployment in self._registry.unopened:
            if deployment.state is DeploymentState.FAILED:
                causes[deployment.name] = deployment.refusal()
        for deployment in self._registry.defaults():
            error = self.unreadiness(deployment, every_worker=True)
            if error is not None and not isinstance(error, NoWorkers):
                causes.setdefault(deployment.name, error)
        opening = Unavailable("The server is still opening archives.") if self._registry.opening else None
        return Readiness(models=causes, server=opening)

    def each_readiness(self) -> Iterator[tuple[str, str, bool]]:
        """Name and version of each model that should be served, and whether a request to it would be. The version is
        empty while it is not known; a model that was scaled to no workers is left out."""
        for deployment in self._registry.unopened:
            yield deployment.name, "", False
        for deployment in self._registry:
            cause = self.unreadiness(deployment)
            if not isinstance(cause, NoWorkers):
                yield *deployment.key, cause is None

    def unreadiness(self, deployment: Deployment, *, every_worker: bool = False) -> ServingError | None:
        """What keeps a model from being served, or from having every worker it should have."""
        if deployment.revision is None:
            return deployment.refusal()
        name = deployment.name
        status = self._engine.status(deployment.key)
        if status.failed:
            return ModelFailed(name, status.last_failure)
        if not status.begun:
            return deployment.refusal()
        if status.wanted == 0:
            return NoWorkers(name)
        if status.ready_workers >= (status.wanted if every_worker else 1):
            return None
        return WorkerRestarting(name, status.last_failure) if status.last_failure else ModelLoading(name)


def _openai_names(spec: ModelSpec) -> tuple[str, ...]:
    if not spec.openai:
        return ()
    handler = spec.model_config.get("handler")
    adapters = handler.get("adapters") if isinstance(handler, Mapping) else None
    return spec.key.name, *(map(str, adapters) if isinstance(adapters, Mapping) else ())
