"""``--watch``: reloads models while their archives or folders in the store are being worked on."""

from __future__ import annotations

import logging
from pathlib import Path

from torchserve_lite.errors import ConfigurationError
from torchserve_lite.management.manager import ModelManager

log = logging.getLogger(__name__)


async def reload_on_changes(store: Path, manager: ModelManager) -> None:
    """Runs until cancelled. Changes that come together are one reload."""
    try:
        from watchfiles import DefaultFilter, awatch
    except ImportError as error:
        raise ConfigurationError(
            "--watch needs the package watchfiles: pip install 'torchserve-lite[watch]'"
        ) from error
    log.info("Watching %s: a model is reloaded when its archive or folder changes.", store)
    store = store.resolve()
    async for changes in awatch(store, watch_filter=DefaultFilter(), debounce=400):
        await manager.reload_changed({Path(path).relative_to(store).parts[0] for _, path in changes})
