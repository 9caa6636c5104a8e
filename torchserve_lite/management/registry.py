"""Which model versions are served, and which of a name is the default."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.errors import Conflict, ModelNotFound, ModelVersionNotFound


class ModelRegistry:
    """Names to versions to specs. The first registered version of a name becomes its default."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ModelSpec]] = {}
        self._defaults: dict[str, str] = {}

    def __iter__(self) -> Iterator[ModelSpec]:
        for versions in self._models.values():
            yield from versions.values()

    def add(self, spec: ModelSpec, *, default: bool = False) -> None:
        name, version = spec.key.name, spec.key.version
        if version in self._models.get(name, {}):
            raise Conflict(f"Model version {version} is already registered for model {name}")
        self._models.setdefault(name, {})[version] = spec
        if default or name not in self._defaults:
            self._defaults[name] = version

    def replace(self, spec: ModelSpec) -> None:
        """A new spec for a version that is registered."""
        self.resolve(spec.key.name, spec.key.version)
        self._models[spec.key.name][spec.key.version] = spec

    def resolve(self, name: str, version: str | None = None) -> ModelSpec:
        """The spec of a version, of the default one when none is named."""
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFound(name)
        spec = versions.get(self._defaults[name] if version is None else version)
        if spec is None:
            raise ModelVersionNotFound(name, version or "")
        return spec

    def versions(self, name: str) -> list[ModelSpec]:
        self.resolve(name)
        return list(self._models[name].values())

    def names(self) -> list[str]:
        return sorted(self._models)

    def defaults(self) -> list[ModelSpec]:
        """The default version of each model, by name."""
        return [self.resolve(name) for name in self.names()]
