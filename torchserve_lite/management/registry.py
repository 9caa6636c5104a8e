"""Which model versions are served, and which of a name is the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.errors import (
    Conflict,
    DefaultVersionKept,
    ModelNotFound,
    ModelNotRegistered,
    ModelVersionNotFound,
    UnknownDefault,
)
from torchserve_lite.management.deployments import Deployment, DeploymentState


class ModelRegistry:
    """Every deployment, by name and version. The first registered version of a name becomes its default.

    ``opening``: some models that are to be served from the start have not been looked at yet. ``unopened``: those whose
    version is not known, because their archives are still being read, or could not be. ``forgotten`` is called with
    each version that was removed, when its last request has been answered.
    """

    def __init__(self) -> None:
        self.opening = False
        self.unopened: list[Deployment] = []
        self.forgotten: list[Callable[[ModelKey], None]] = []
        self._models: dict[str, dict[str, Deployment]] = {}
        self._defaults: dict[str, str] = {}
        self._draining: list[Deployment] = []

    def __iter__(self) -> Iterator[Deployment]:
        """Those that have been opened and are not draining."""
        for versions in self._models.values():
            yield from versions.values()

    def add(self, deployment: Deployment, *, default: bool = False) -> None:
        """Its archive has been opened."""
        name, version = deployment.key
        if version in self._models.get(name, {}):
            raise Conflict(f"Model version {version} is already registered for model {name}")
        if any(other.key == deployment.key for other in self._draining):
            raise Conflict(f"Model version {version} of model {name} is being unregistered. Try again when it is gone.")
        self.unopened = [other for other in self.unopened if other is not deployment]
        self._models.setdefault(name, {})[version] = deployment
        if default or name not in self._defaults:
            self._defaults[name] = version

    def remove(self, deployment: Deployment, *, even_the_default: bool = False) -> None:
        """From now on nobody finds it, though it may have requests to answer. DefaultVersionKept when its name has
        other versions and it is the default, unless ``even_the_default``: then the newest of them is."""
        name, version = deployment.key
        versions = self._models[name]
        if self._defaults[name] == version and len(versions) > 1 and not even_the_default:
            raise DefaultVersionKept(name)
        del versions[version]
        deployment.state = DeploymentState.DRAINING
        self._draining.append(deployment)
        if not versions:
            del self._models[name], self._defaults[name]
        elif self._defaults[name] == version:
            self._defaults[name] = list(versions)[-1]

    def forget(self, deployment: Deployment) -> None:
        """It has been removed, and its last request has been answered."""
        self._draining.remove(deployment)
        for tell in self.forgotten:
            tell(deployment.key)

    def dismiss(self, name: str) -> None:
        """Forgets those of this name whose archives could not be opened."""
        self.unopened = [one for one in self.unopened if one.name != name or one.failure is None]

    def set_default(self, name: str, version: str) -> None:
        versions = self._models.get(name)
        if versions is None:
            raise self._unknown(name)
        if version not in versions:
            raise UnknownDefault(name, version)
        self._defaults[name] = version
        for other in self.unopened:
            if other.name == name:  # a snapshot remembers that it was; that holds no longer
                other.options = replace(other.options, default_version=False)

    def resolve(self, name: str, version: str | None = None) -> Deployment:
        """The deployment of a version, of the default one when none is named; one that has not been opened when there
        is no other of that name. ModelNotRegistered when its archive could not be opened."""
        versions = self._models.get(name)
        if versions is None:
            opening = (one for one in self.unopened if one.name == name and one.failure is None)
            found = next(opening, None)
            if found is None:
                raise self._unknown(name)
            return found
        deployment = versions.get(self._defaults[name] if version is None else version)
        if deployment is None:
            raise ModelVersionNotFound(name, version or "")
        return deployment

    def _unknown(self, name: str) -> ModelNotFound | ModelNotRegistered:
        failed = next((one for one in self.unopened if one.name == name and one.failure is not None), None)
        return ModelNotFound(name) if failed is None else ModelNotRegistered(name, str(failed.failure))

    def is_default(self, deployment: Deployment) -> bool:
        return self._defaults.get(deployment.key.name) == deployment.key.version

    def versions(self, name: str) -> list[Deployment]:
        """Those that have been opened, in the order in which they were."""
        return list(self._models.get(name, {}).values())

    def names(self) -> list[str]:
        return sorted(self._models)

    def defaults(self) -> list[Deployment]:
        """The default version of each model, by name."""
        return [self._models[name][self._defaults[name]] for name in self.names()]

    def locate(self, spec: ModelSpec) -> ModelFiles:
        """The unpacked files of what a worker is started for: a ``ModelLocator``."""
        served = self._models.get(spec.key.name, {}).get(spec.key.version)
        for deployment in ([served] if served else []) + self._draining:
            for revision in deployment.revisions:
                if (revision.spec.key, revision.spec.generation) == (spec.key, spec.generation):
                    return revision.files
        raise ModelNotFound(spec.key.name)

    def close(self) -> None:
        """Removes all that has been unpacked."""
        for deployment in [*self, *self.unopened, *self._draining]:
            deployment.close()
