"""The model store as KServe's repository calls see it: models that are loaded and unloaded by name."""

from __future__ import annotations

from torchserve_lite.archive.store import last_part
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.manager import ModelManager


class ModelRepository:
    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    async def unloaded(self) -> list[str]:
        """The names by which archives of the store can be loaded that nothing is served from."""
        archives = await self._manager.archives_in_store()
        served = {last_part(deployment.spec.archive_url) for deployment in self._manager.registry}
        return sorted(name for name, file in archives.items() if file not in served and not self._versions(name))

    async def load(self, name: str) -> None:
        """Returns when it has workers. One that is served has them already, unless it was scaled to 0 or has failed.
        What is not in the store may have been pulled by KServe's agent."""
        if not self._versions(name):
            archive = (await self._manager.archives_in_store()).get(name)
            if archive is not None:
                await self._manager.register(ServingOptions(url=archive, name=name), with_workers=True)
            else:
                await self._manager.register_pulled(name)
            return
        (served,) = await self._manager.describe(name, None)
        if served.status.failed or not served.status.wanted:
            low = served.min_workers or self._manager.default_workers
            await self._manager.scale(name, None, low, max(low, served.max_workers))

    async def unload(self, name: str) -> None:
        """All its versions, the default one last. Returns when their last requests have been answered."""
        versions = sorted(self._versions(name), key=self._manager.registry.is_default)
        for deployment in versions:
            await self._manager.unregister(name, deployment.key.version)
        if not versions:
            await self._manager.unregister(name)  # one that could not be opened, or is not known

    def _versions(self, name: str) -> list[Deployment]:
        return self._manager.registry.versions(name)
