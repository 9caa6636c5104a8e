"""``--watch``: reloads models while their archives or folders in the store are being worked on."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from torchserve_lite.management.manager import ModelManager

log = logging.getLogger(__name__)


def check_watching() -> None:
    """ConfigurationError when ``--watch`` cannot do what it is to do. For the start: later would be too late."""
    try:
        importlib.import_module("watchfiles")
    except ImportError as error:
        raise ConfigurationError(
            "--watch needs the package watchfiles: pip install 'torchserve-lite[watch]'."
        ) from error


async def reload_on_changes(store: Path, manager: ModelManager) -> None:
    """Runs until cancelled. Changes that come together are one reload.

    Watching may end by itself: the system has no watches left, or the store has been taken away. Serving goes on.
    """
    from watchfiles import DefaultFilter, awatch

    log.info("Watching %s: a model is reloaded when its archive or folder changes.", store)
    store = store.resolve()
    try:
        async for changes in awatch(store, watch_filter=DefaultFilter(), debounce=400):
            paths = [Path(path).relative_to(store) for _, path in changes]
            await manager.reload_changed({path.parts[0] for path in paths if path.parts})
    except (OSError, RuntimeError) as error:  # RuntimeError: watchfiles' own
        log.error("Watching %s has ended (%s). Models are served on; changes no longer reload them.", store, error)
