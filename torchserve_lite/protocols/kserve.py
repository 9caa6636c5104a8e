"""What KServe's V2 protocol tells over REST and gRPC alike: of the server itself, and of the model repository."""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import ModelLoading, ServingError
from torchserve_lite.management.access import Access
from torchserve_lite.management.repository import ModelRepository

EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters", "sequence")
PLATFORM = "pytorch"  # where a model config does not say it


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedModel:
    """``version`` is empty where none has ever been opened; ``reason`` where it is READY."""

    name: str
    version: str = ""
    state: str = "READY"
    reason: str = ""


class KServeRepository:
    def __init__(self, plane: DataPlane, repository: ModelRepository, access: Access) -> None:
        self._plane = plane
        self._repository = repository
        self._access = access

    async def index(self, *, ready_only: bool) -> list[IndexedModel]:
        """Every version that is served and, unless only those that are ready are asked for, what lies in the store."""
        found: list[IndexedModel] = []
        for model in await self._plane.models():
            for version in model.versions:
                readiness = await self._plane.readiness(model.name, version)
                cause = next(iter(readiness.models.values()), None)
                if cause is None:
                    found.append(IndexedModel(name=model.name, version=version))
                elif not ready_only:
                    found.append(IndexedModel(name=model.name, version=version, state=_state(cause), reason=str(cause)))
        if ready_only:
            return found
        known = {model.name for model in found}
        for name, cause in (await self._plane.server_ready()).models.items():
            if name not in known:  # its archive could not be opened
                known.add(name)
                found.append(IndexedModel(name=name, state=_state(cause), reason=str(cause)))
        unloaded = [name for name in await self._repository.unloaded() if name not in known]
        return found + [IndexedModel(name=name, state="UNAVAILABLE", reason="unloaded") for name in unloaded]

    async def load(self, name: str) -> None:
        self._access.check_model_api()
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        self._access.check_model_api()
        await self._repository.unload(name)


def _state(cause: ServingError) -> str:
    return "LOADING" if isinstance(cause, ModelLoading) else "UNAVAILABLE"
